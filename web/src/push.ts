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
}

/** Whether they are on here: the browser says so only asynchronously. */
const ON = "tidings.push";
/** As in sw.ts, which imports nothing. */
const FILE = "push.json";
const cacheName = () => `tidings-push ${new URL("./", window.location.href).pathname}`;

/** Whether this browser can have them; on an iPhone only the installed page can. */
export function canPush(): boolean {
  return "serviceWorker" in navigator && "PushManager" in window && window.isSecureContext;
}

export function isPushOn(): boolean {
  return localStorage.getItem(ON) !== null;
}

/** Call it when somebody presses: it asks for the permission. Raises a `TidingsError`. */
export async function switchPushOn(client: Client, public_key: string, with_content: boolean): Promise<void> {
  if ((await askPermission()) !== "granted")
    throw noAnswer(m("Your browser blocks them. To turn them on, allow them in its settings for this page."));
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
  localStorage.setItem(ON, "");
  await keepForWorker();
}

/** Forget them here. The server forgets them with `unsubscribe_push`, or when the session ends. */
export async function switchPushOff(): Promise<void> {
  localStorage.removeItem(ON);
  await caches.delete(cacheName());
  const registration = await navigator.serviceWorker.getRegistration();
  await (await registration?.pushManager.getSubscription())?.unsubscribe();
}

/** Keep what the service worker needs to show a message, and to send a reply. */
export async function keepForWorker(): Promise<void> {
  const session = loadSession();
  if (session === null) return;
  const needs: WorkerNeeds = {
    session,
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
