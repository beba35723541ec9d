/** Forms, without the code of dialogs and menus: the sign-in form is shown before that is loaded. */

import { TidingsError } from "@tidings/client/errors";
import { type ComponentProps, type FormEvent, type ReactNode, useId, useState } from "react";
import { fieldOf, reasonOf } from "../text.ts";

/** For a name or a code: turns off the browser's suggestions and corrections. */
const VERBATIM = { autoComplete: "off", autoCapitalize: "none", spellCheck: false } as const;

/** A labelled text field with its error. */
export function Field({
  label,
  hint,
  error,
  verbatim = false,
  ...rest
}: { label: string; hint?: ReactNode; error?: string | null; verbatim?: boolean } & ComponentProps<"input">) {
  const id = useId();
  const described = [hint ? `${id}-hint` : "", error ? `${id}-error` : ""].filter(Boolean).join(" ");
  return (
    <div className="field">
      <label className="label" htmlFor={id}>
        {label}
      </label>
      <input
        id={id}
        className="input"
        aria-invalid={error ? true : undefined}
        aria-describedby={described || undefined}
        {...(verbatim && VERBATIM)}
        {...rest}
      />
      {hint && (
        <span id={`${id}-hint`} className="muted small">
          {hint}
        </span>
      )}
      {error && (
        <span id={`${id}-error`} className="error small" role="alert">
          {error}
        </span>
      )}
    </div>
  );
}

interface Failure {
  readonly error: string | null;
  /** The error code; null: no error, or no answer came */
  readonly code: TidingsError["code"] | null;
  /** The field of the request that the error is about, if any */
  readonly field: string | null;
}

const SUCCEEDED: Failure = { error: null, code: null, field: null };

/**
 * Runs one request at a time, with its state and the reason of a failure.
 * `run` returns whether it succeeded.
 */
export function useWork(): Failure & {
  busy: boolean;
  run: (work: () => Promise<unknown>) => Promise<boolean>;
  clear: () => void;
} {
  const [busy, setBusy] = useState(false);
  const [failed, setFailed] = useState(SUCCEEDED);
  const run = async (work: () => Promise<unknown>) => {
    if (busy) return false;
    setBusy(true);
    setFailed(SUCCEEDED);
    try {
      await work();
      return true;
    } catch (refused) {
      const code = refused instanceof TidingsError ? refused.code : null;
      setFailed({ error: reasonOf(refused), code, field: fieldOf(refused) });
      return false;
    } finally {
      setBusy(false);
    }
  };
  return { busy, ...failed, run, clear: () => setFailed(SUCCEEDED) };
}

/** A form that does not leave the page. */
export function Form({ onSubmit, ...rest }: { onSubmit: () => void } & Omit<ComponentProps<"form">, "onSubmit">) {
  const submit = (event: FormEvent) => {
    event.preventDefault();
    onSubmit();
  };
  return <form className="stack" noValidate onSubmit={submit} {...rest} />;
}
