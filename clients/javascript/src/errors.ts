import type { ActionError } from "./contract.gen.ts";
import type { ErrorCode } from "./types.ts";

/**
 * Codes of the library itself. `offline`: there is no connection, or no answer came, so the action may have taken
 * effect. `closed`: the client was closed. `withdrawn`: the message was withdrawn before it was sent. `store_in_use`:
 * another process uses the store. `store_failed`: the store could not be written. `store_of_another`: the store belongs to
 * another user.
 */
export type ClientErrorCode =
  | "offline"
  | "closed"
  | "withdrawn"
  | "store_in_use"
  | "store_failed"
  | "store_of_another";

/** An error answer of the server, or a failure of the library; `code` says which. */
export class TidingsError extends Error {
  override readonly name = "TidingsError";
  readonly code: ErrorCode | ClientErrorCode;
  readonly details: Readonly<Record<string, unknown>>;
  /** Whether the same request may succeed later. */
  readonly retryable: boolean;

  constructor(error: Pick<TidingsError, "code" | "message"> & Partial<TidingsError>) {
    super(error.message, error.cause === undefined ? undefined : { cause: error.cause });
    this.code = error.code;
    this.details = error.details ?? {};
    this.retryable = error.retryable ?? false;
  }

  /** Seconds to wait before the same request, if the server named them. */
  get retryAfter(): number | null {
    const seconds = this.details.retry_after;
    return typeof seconds === "number" ? seconds : null;
  }
}

export function fromServer(error: ActionError): TidingsError {
  return new TidingsError({ ...error, details: error.details as Record<string, unknown> });
}

export function noAnswer(message: string): TidingsError {
  return new TidingsError({ code: "offline", message, retryable: true });
}

export function isClosed(): TidingsError {
  return new TidingsError({ code: "closed", message: "The client is closed." });
}

/** A write to the store that failed, with its cause. */
export function storeFailed(cause: unknown): TidingsError {
  if (cause instanceof TidingsError) return cause;
  return new TidingsError({ code: "store_failed", message: `The store cannot be written: ${cause}`, cause });
}

/** Whether the error concerns the session or the connection, not the request: the request may be repeated later. */
export function isTemporary(error: unknown): error is TidingsError {
  if (!(error instanceof TidingsError)) return false;
  return error.retryable || error.code === "rate_limited" || SESSION.has(error.code);
}

const SESSION = new Set<string>(["unauthenticated", "token_expired", "token_revoked"]);
