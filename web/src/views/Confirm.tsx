import "../styles/dialogs.css";
import { Check, Copy } from "lucide-react";
import { type ReactNode, useRef, useState } from "react";
import { t } from "../i18n.ts";
import { copyToClipboard } from "./clipboard.ts";
import { Field, Form, useWork } from "./form.tsx";
import { Dialog, IconButton } from "./ui.tsx";

/** Asks for confirmation and runs the action; stays open with the reason if it is refused. */
export function Confirm({
  title,
  does,
  danger = false,
  work,
  onClose,
  children,
}: {
  title: string;
  /** The label of the button */
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
            {t("Cancel")}
          </button>
          <button type="submit" className={`button ${danger ? "danger" : "primary"}`} disabled={busy}>
            {does}
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}

/** A text to share, with a button that copies it; selected for copying by hand if the browser forbids that. */
export function CopyField({ label, value }: { label: string; value: string }) {
  const [done, setDone] = useState<boolean | null>(null);
  const field = useRef<HTMLInputElement>(null);
  const copy = async () => {
    const worked = await copyToClipboard(value);
    setDone(worked);
    if (!worked) field.current?.select();
  };
  return (
    <div className="copy-field">
      <Field label={label} readOnly ref={field} value={value} onFocus={(event) => event.currentTarget.select()} />
      <IconButton label={t("Copy")} onClick={() => void copy()}>
        {done === true ? <Check size={20} /> : <Copy size={20} />}
      </IconButton>
      <span role="status" className="muted small">
        {done === true && t("Copied.")}
        {done === false && t("The browser does not allow this page to copy. Please copy the selected text yourself.")}
      </span>
    </div>
  );
}
