/** The signed-in session, and requests over HTTP, which need no live connection. */
import { TidingsError } from "@tidings/client/errors";
import type {
  Account,
  ActionError,
  Credentials,
  NewRegistrationLink,
  Registration,
  TopicPreview,
} from "./contract.gen.ts";
import { m, t } from "./i18n.ts";

/** The page comes with it as its title. */
export const SERVER_NAME = globalThis.document?.title || "Tidings";

export interface Session {
  readonly username: string;
  readonly token: string;
  /** ISO 8601, UTC */
  readonly expires_at: string;
}

/** No answer came: the action may have taken effect. */
export function noAnswer(message: string): TidingsError {
  return new TidingsError({ code: "offline", message, retryable: true });
}

// Only scripts of this origin can read it, and by its CSP the page runs no script but its own.
const SESSION = "tidings.session";
const DEVICE = "tidings.device";
/** The last line of an export is within this many bytes of its end */
const LAST_LINE_WITHIN = 1000;
const ANSWER_WITHIN = 20_000;
/** A token that ends sooner is exchanged for a new one (ms). */
const REFRESH_BEFORE = 15 * 60_000;

export function loadSession(): Session | null {
  try {
    const kept = JSON.parse(localStorage.getItem(SESSION) ?? "null") as Session | null;
    return kept !== null && typeof kept.token === "string" && typeof kept.username === "string" ? kept : null;
  } catch {
    return null;
  }
}

export function saveSession(session: Session | null): void {
  if (session === null) localStorage.removeItem(SESSION);
  else localStorage.setItem(SESSION, JSON.stringify(session));
}

/** Call `changed` when another tab signs in or out. Returns a function that stops it. */
export function onSessionElsewhere(changed: (session: Session | null) => void): () => void {
  const listener = (event: StorageEvent) => {
    if (event.key === SESSION || event.key === null) changed(loadSession());
  };
  window.addEventListener("storage", listener);
  return () => window.removeEventListener("storage", listener);
}

/** The device name of this browser, generated once. */
export function deviceName(): string {
  const kept = localStorage.getItem(DEVICE);
  if (kept !== null) return kept;
  const made = `web ${randomId().slice(0, 8)}`;
  localStorage.setItem(DEVICE, made);
  return made;
}

/** 128 random bits. `crypto.randomUUID` is missing where the page comes over plain HTTP from another machine. */
export function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join(
    "",
  );
}

export async function signIn(username: string, password: string): Promise<Session> {
  return asSession(await post<Credentials>("api/login", { username, password }));
}

/** `invitation`: the code of a registration link; null: without one. */
export async function createAccount(
  username: string,
  password: string,
  invitation: string | null = null,
): Promise<Session> {
  return asSession(
    await post<Credentials>("api/register", { username, password, ...(invitation === null ? {} : { invitation }) }),
  );
}

/** Who may create an account. Raises a `TidingsError`. */
export async function registration(): Promise<Registration["registration"]> {
  return ((await request("api/registration", {})) as Registration).registration;
}

/** Whether the user of the token may make registration links: administrators, while registration is by invitation. */
/** What a link to a public topic leads to; null: only members of this server may see it, or it is not there. */
export async function previewed(room_id: string): Promise<TopicPreview | null> {
  const path = `api/topic-preview?room_id=${encodeURIComponent(room_id)}`;
  return (await request(path, {}).catch(() => null)) as TopicPreview | null;
}

export async function mayInviteNewcomers(token: string): Promise<boolean> {
  return (await registration()) === "invite" && isAdmin(token);
}

/** Whether the user of the token is an administrator. */
export async function isAdmin(token: string): Promise<boolean> {
  return ((await get("api/me", token)) as Account).admin;
}

/** Make a link with which one newcomer may register within a week; its code. Raises a `TidingsError`. */
export async function newRegistrationLink(token: string): Promise<string> {
  return (await post<NewRegistrationLink>("api/admin/registration-links", {}, token)).code;
}

/** Set a new password by the code of a link, and sign in. Raises a `TidingsError`. */
export async function resetPassword(code: string, new_password: string): Promise<Session> {
  return asSession(await post<Credentials>("api/reset-password", { code, new_password }));
}

/** The session with a token that does not end soon. */
export async function refreshed(session: Session): Promise<Session> {
  if (Date.parse(session.expires_at) - Date.now() >= REFRESH_BEFORE) return session;
  const fresh = asSession(await post<Credentials>("api/refresh", {}, session.token));
  saveSession(fresh);
  return fresh;
}

function asSession(credentials: Credentials): Session {
  return { username: credentials.user.username, token: credentials.token, expires_at: credentials.expires_at };
}

async function post<T>(path: string, body: object, token?: string): Promise<T> {
  const headers: Record<string, string> = { "content-type": "application/json" };
  if (token !== undefined) headers.authorization = `Bearer ${token}`;
  return (await request(path, { method: "POST", headers, body: JSON.stringify(body) })) as T;
}

/** Send a GET request. Raises a `TidingsError`. */
export async function get(path: string, token: string): Promise<unknown> {
  return request(path, { headers: { authorization: `Bearer ${token}` } });
}

/** The server's data about the user, as JSON lines, without a timeout. Raises a `TidingsError`, also if it is incomplete. */
export async function exported(token: string): Promise<Blob> {
  const answer = await sent("api/me/export", { headers: { authorization: `Bearer ${token}` } });
  const lines = await answer.blob().catch(() => null);
  const last = (await lines?.slice(-LAST_LINE_WITHIN).text())?.trimEnd().split("\n").at(-1) ?? "";
  if (lines === null || !/^\{.*"type": ?"end"/.test(last)) throw noAnswer(m("The export broke off. Try again."));
  return lines;
}

/** Send the bytes of an upload in one part (tus 1.0). Raises a `TidingsError`. */
export async function uploaded(url: string, content: Blob, token: string): Promise<void> {
  const headers = {
    authorization: `Bearer ${token}`,
    "content-type": "application/offset+octet-stream",
    "upload-offset": "0",
  };
  await request(url, { method: "PATCH", headers, body: content });
}

/** The answer, null if it has none. Raises a `TidingsError`. */
export async function request(path: string, options: RequestInit): Promise<unknown> {
  const answer = await sent(path, { ...options, signal: AbortSignal.timeout(ANSWER_WITHIN) });
  return answer.json().catch(() => null);
}

async function sent(path: string, options: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, options);
  } catch {
    throw noAnswer(m("The server cannot be reached."));
  }
  if (answer.ok) return answer;
  const problem = ((await answer.json().catch(() => null)) ?? {}) as Partial<ActionError> & { detail?: string };
  throw new TidingsError({
    code: problem.code ?? "offline",
    message: problem.detail ?? t("The server answered {status}.", { status: answer.status }),
    details: problem.details ?? {},
    retryable: problem.retryable ?? answer.status >= 500,
  });
}
