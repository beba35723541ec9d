import "../styles/dialogs.css";
import { Check, Copy } from "lucide-react";
import { type ReactNode, useRef, useState } from "react";
import { copied } from "./copied.ts";
import { Dialog, Field, Form, IconButton, useWork } from "./ui.tsx";

/** Asks before something is done, does it, and stays with the reason if it was refused. */
export function Confirm({
  title,
  does,
  danger = false,
  work,
  onClose,
  children,
}: {
  title: string;
  /** The word on the button */
  does: string;
  danger?: boolean;
  work: () => Promise<unknown>;
  onClose: () => void;
  children: ReactNode;
}) {
  const { busy, error, run } = useWork();
  const confirm = async () => {
    if (await run(work)) onClose();
  };
  return (
    <Dialog title={title} onClose={onClose}>
      <Form onSubmit={() => void confirm()}>
        {children}
        {error !== null && (
          <p role="alert" className="error">
            {error}
          </p>
        )}
        <footer>
          <button type="button" className="button" data-autofocus onClick={onClose}>
            Cancel
          </button>
          <button type="submit" className={`button ${danger ? "danger" : "primary"}`} disabled={busy}>
            {does}
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}

/** Text to hand on: with a button that copies it, and to be copied by hand where the page may not. */
export function CopyField({ label, value }: { label: string; value: string }) {
  const [done, setDone] = useState<boolean | null>(null);
  const field = useRef<HTMLInputElement>(null);
  const copy = async () => {
    const worked = await copied(value);
    setDone(worked);
    if (!worked) field.current?.select();
  };
  return (
    <div className="copy-field">
      <Field label={label} readOnly ref={field} value={value} onFocus={(event) => event.currentTarget.select()} />
      <IconButton label="Copy" onClick={() => void copy()}>
        {done === true ? <Check size={20} /> : <Copy size={20} />}
      </IconButton>
      <span role="status" className="muted small">
        {done === true && "Copied."}
        {done === false && "The browser does not let the page copy it. Copy the selected text, please."}
      </span>
    </div>
  );
}
