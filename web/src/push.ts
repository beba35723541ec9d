/**
 * Push notifications of this browser: switching them on and off. The service worker (sw.ts) shows them, also while the
 * page is closed. What it needs for that is kept in a cache that it reads.
 */
import type { Client } from "./client.ts";
import { m, t } from "./i18n.ts";
import { loadSession, noAnswer, type Session } from "./session.ts";
import { askPermission } from "./views/notifications.ts";

export interface WorkerTexts {
  /** With `{sender}` and `{room}` */
  readonly sender_in_room: string;
  readonly new_message: string;
  readonly reply: string;
  readonly not_sent: string;
}

/** `push.json`: what the service worker needs. */
export interface WorkerNeeds {
  readonly session: Session;
  readonly texts: WorkerTexts;
  /** Of the server: with it the worker subscribes anew. */
  readonly public_key: string;
  readonly with_content: boolean;
}

/** For whom they are on here. */
const ON = "tidings.push";
interface On {
  readonly username: string;
  readonly with_content: boolean;
}
/** As in sw.ts, which imports nothing. */
const FILE = "push.json";
const cacheName = () => `tidings-push ${new URL("./", window.location.href).pathname}`;

/** Whether this browser can have them; on an iPhone only the installed page can. */
export function canPush(): boolean {
  return "serviceWorker" in navigator && "PushManager" in window && window.isSecureContext;
}

/** Null: they are off here. */
function chosen(): On | null {
  return JSON.parse(localStorage.getItem(ON) ?? "null") as On | null;
}

export function isPushOn(): boolean {
  return chosen() !== null;
}

/**
 * After a connect: keep them on if their user has signed in again, since they end with a session, or if the browser has
 * dropped the subscription; switch them off if somebody else has signed in. Raises a `TidingsError`.
 */
export async function renewPush(client: Client): Promise<void> {
  const on = chosen();
  if (on === null || on.username !== client.me) return switchPushOff();
  const { public_key, subscriptions } = await client.ask("get_push", {});
  if (public_key === null) return;
  await keepForWorker(public_key, on.with_content);
  const { pushManager } = await navigator.serviceWorker.ready;
  if (!subscriptions.some(({ current }) => current) || (await pushManager.getSubscription()) === null)
    await subscribe(client, public_key, on.with_content);
}

/** Call it when somebody presses: it asks for the permission. Raises a `TidingsError`. */
export async function switchPushOn(client: Client, public_key: string, with_content: boolean): Promise<void> {
  if ((await askPermission()) !== "granted")
    throw noAnswer(m("Your browser blocks them. To turn them on, allow them in its settings for this page."));
  await subscribe(client, public_key, with_content);
  localStorage.setItem(ON, JSON.stringify({ username: client.me, with_content } satisfies On));
  await keepForWorker(public_key, with_content);
}

async function subscribe(client: Client, public_key: string, with_content: boolean): Promise<void> {
  const { pushManager } = await navigator.serviceWorker.ready;
  const options = { userVisibleOnly: true, applicationServerKey: public_key };
  const subscription = await pushManager.subscribe(options).catch(async () => {
    await (await pushManager.getSubscription())?.unsubscribe(); // it is of an earlier key of the server
    return pushManager.subscribe(options).catch(() => {
      throw noAnswer(m("Your browser cannot reach its push service."));
    });
  });
  const { endpoint = "", keys = {} } = subscription.toJSON();
  await client.ask("subscribe_push", { endpoint, keys, with_content });
}

/** Forget them here. The server forgets them with `unsubscribe_push`, or when the session ends. */
export async function switchPushOff(): Promise<void> {
  localStorage.removeItem(ON);
  await caches.delete(cacheName());
  const registration = await navigator.serviceWorker.getRegistration();
  await (await registration?.pushManager.getSubscription())?.unsubscribe();
}

/** Keep what the service worker needs to show a message, to send a reply, and to subscribe anew. */
async function keepForWorker(public_key: string, with_content: boolean): Promise<void> {
  const session = loadSession();
  if (session === null) return;
  const needs: WorkerNeeds = {
    session,
    public_key,
    with_content,
    texts: {
      sender_in_room: t("{sender} in {room}", { sender: "{sender}", room: "{room}" }),
      new_message: t("New message"),
      reply: t("Reply"),
      not_sent: t("Your reply was not sent"),
    },
  };
  const cache = await caches.open(cacheName());
  await cache.put(FILE, new Response(JSON.stringify(needs)));
}
