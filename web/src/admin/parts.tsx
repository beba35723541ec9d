/** What the sections of the administrators' page are made of: a table by pages, forms that make something, sizes. */
import { createContext, type ReactNode, useContext, useEffect, useRef, useState } from "react";
import { locale, t } from "../i18n.ts";
import { agoOf, momentOf, reasonOf } from "../text.ts";
import { Problem } from "../views/answer.tsx";
import { CopyField } from "../views/Confirm.tsx";
import { Form, useWork } from "../views/form.tsx";
import { Dialog } from "../views/ui.tsx";
import type { Ask } from "./api.ts";

export const AskContext = createContext<Ask | null>(null);

export function useAsk(): Ask {
  const ask = useContext(AskContext);
  if (ask === null) throw new Error("nobody is signed in");
  return ask;
}

const PAGE = 50;
const LONGEST_PAGE = 500;

/** The part of a list to load. */
export interface Page {
  readonly limit: number;
  /** `next` of the page before */
  readonly after?: string;
}

export type Load<T> = (page: Page) => Promise<{ items: readonly T[]; next?: string | number | null }>;

export interface Column<T> {
  readonly label: string;
  readonly cell: (item: T) => ReactNode;
}

/** What can be done with a row of a table. */
export interface Acting {
  readonly busy: boolean;
  /** Do it, load the list again, and say so. */
  readonly run: (work: () => Promise<unknown>, done: string) => void;
  /** Open a dialog, and load the list again when it is closed. */
  readonly open: (dialog: (close: () => void) => ReactNode) => void;
}

/** A table of what the server has, by pages, and what can be done with each row. */
export function Records<T>({
  title,
  load,
  keyOf,
  columns,
  actions,
  none,
}: {
  title: string;
  /** Another function loads another list. */
  load: Load<T>;
  keyOf: (item: T) => string | number;
  columns: readonly Column<T>[];
  actions?: (item: T, acting: Acting) => ReactNode;
  /** Instead of an empty table */
  none: string;
}) {
  const [items, setItems] = useState<readonly T[] | null>(null);
  const [next, setNext] = useState<string | null>(null);
  const [failed, setFailed] = useState<string | null>(null);
  const [done, setDone] = useState("");
  const [dialog, setDialog] = useState<((close: () => void) => ReactNode) | null>(null);
  const { busy, error, run } = useWork();
  const heading = useRef<HTMLHeadingElement>(null);
  const latest = useRef(load);
  const fetch = async (page: Page, before: readonly T[] = []) => {
    try {
      const loaded = await load(page);
      if (latest.current !== load) return;
      setItems([...before, ...loaded.items]);
      setNext(loaded.next == null ? null : String(loaded.next));
      setFailed(null);
    } catch (refused) {
      if (latest.current === load) setFailed(reasonOf(refused));
    }
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: `fetch` loads with `load`
  useEffect(() => {
    latest.current = load;
    void fetch({ limit: PAGE });
  }, [load]);
  const again = async () => {
    await fetch({ limit: Math.min(Math.max(items?.length ?? 0, PAGE), LONGEST_PAGE) });
    // The button that had the focus may be gone with its row.
    requestAnimationFrame(() => {
      if (document.activeElement === document.body) heading.current?.focus();
    });
  };
  const acting: Acting = {
    busy,
    run: (work, done) => {
      setDone("");
      void run(work).then((worked) => {
        if (worked) setDone(done);
        return again();
      });
    },
    open: (dialog) => setDialog(() => dialog),
  };
  const close = () => {
    setDialog(null);
    void again();
  };
  return (
    <section>
      <h2 ref={heading} tabIndex={-1}>
        {title}
      </h2>
      <Problem text={failed ?? error} />
      <p role="status" className={done === "" ? "hidden" : "muted"}>
        {done}
      </p>
      {items === null && failed === null && <p className="muted">{t("Loading…")}</p>}
      {items?.length === 0 && <p className="muted">{none}</p>}
      {items !== null && items.length > 0 && (
        <table>
          <caption className="hidden">{title}</caption>
          <thead>
            <tr>
              {columns.map(({ label }) => (
                <th key={label} scope="col">
                  {label}
                </th>
              ))}
              {actions && (
                <th scope="col">
                  <span className="hidden">{t("Actions")}</span>
                </th>
              )}
            </tr>
          </thead>
          <tbody>
            {items.map((item) => (
              <tr key={keyOf(item)}>
                {columns.map(({ label, cell }) => (
                  <td key={label} data-label={label}>
                    <div>{cell(item)}</div>
                  </td>
                ))}
                {actions && <td className="does">{actions(item, acting)}</td>}
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {next !== null && (
        <button
          type="button"
          className="button"
          disabled={busy}
          onClick={() => void run(() => fetch({ limit: PAGE, after: next }, items ?? []))}
        >
          {t("Show more")}
        </button>
      )}
      {dialog?.(close)}
    </section>
  );
}

/** A list with a button that makes another one. */
export function WithNew({
  label,
  list,
  dialog,
}: {
  label: string;
  list: (key: number) => ReactNode;
  dialog: (close: () => void) => ReactNode;
}) {
  const [made, setMade] = useState(0);
  const [making, setMaking] = useState(false);
  return (
    <>
      {list(made)}
      <div>
        <button type="button" className="button" onClick={() => setMaking(true)}>
          {label}
        </button>
      </div>
      {making &&
        dialog(() => {
          setMaking(false);
          setMade(made + 1);
        })}
    </>
  );
}

/** A form in a dialog that makes something with a secret, which is shown once. */
export function Make({
  title,
  does,
  made: label,
  note,
  work,
  onClose,
  children,
}: {
  title: string;
  /** The label of the button */
  does: string;
  /** What the secret is */
  made: string;
  /** What to know about the secret */
  note: string;
  /** Answers the secret. */
  work: () => Promise<string>;
  onClose: () => void;
  children?: ReactNode;
}) {
  const [made, setMade] = useState<string | null>(null);
  const { busy, error, run } = useWork();
  return (
    <Dialog title={title} onClose={onClose}>
      {made === null ? (
        <Form onSubmit={() => void run(async () => setMade(await work()))}>
          {children}
          <Problem text={error} />
          <footer>
            <button type="button" className="button" onClick={onClose}>
              {t("Cancel")}
            </button>
            <button type="submit" className="button primary" disabled={busy}>
              {does}
            </button>
          </footer>
        </Form>
      ) : (
        <>
          <p>{note}</p>
          <CopyField label={label} value={made} />
        </>
      )}
    </Dialog>
  );
}

/** How long ago something was, with its time in full as a hint. */
export function Ago({ at }: { at: string }) {
  return (
    <time dateTime={at} title={momentOf(at)}>
      {agoOf(at)}
    </time>
  );
}

const numbers = new Intl.NumberFormat(locale);

export function countOf(count: number): string {
  return numbers.format(count);
}
