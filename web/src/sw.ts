/// <reference lib="webworker" />
/**
 * The service worker stores the page's own files, so that the page opens without a server. It never touches messages:
 * those are in IndexedDB, and every other request goes to the network unchanged. It also shows push notifications, and
 * sends the replies that are written in them. It imports only types: it is one file.
 */
import type { PushNotification } from "./contract.gen.ts";
import type { WorkerNeeds } from "./push.ts";

const worker = self as unknown as ServiceWorkerGlobalScope;

/** The path of one of the page's files: the server may be mounted below a prefix. */
const at = (file: string) => new URL(file, worker.location.href).pathname;

const PAGE = at("./");
const CACHE = `tidings-shell ${PAGE}`;
/** The emoji are as large as the rest: those of the browser's language. */
const EMOJI = navigator.language.startsWith("es") ? "emoji/es" : "emoji/en";
const FILES = ["manifest.webmanifest", "icon.svg", "first.js", `${EMOJI}/data.json`, `${EMOJI}/messages.json`];
const PUBLIC = [PAGE, ...FILES.map(at)];

/** Store all files of the newest build, and delete those of older ones. */
async function keepShell(): Promise<void> {
  const answer = await fetch("shell.json", { cache: "no-store" });
  const assets = ((await answer.json()) as string[]).map(at);
  const cache = await caches.open(CACHE);
  const held = new Set((await cache.keys()).map((request) => new URL(request.url).pathname));
  await cache.addAll(assets.filter((path) => !held.has(path)));
  await cache.addAll(PUBLIC.map((path) => new Request(path, { cache: "no-cache" })));
  const wanted = new Set([...assets, ...PUBLIC]);
  for (const request of await cache.keys())
    if (!wanted.has(new URL(request.url).pathname)) await cache.delete(request);
}

/** The page from the server; the stored one if the server cannot be reached. */
async function page(request: Request): Promise<Response> {
  try {
    const answer = await fetch(request);
    if (answer.status < 500) return answer;
    return (await caches.match(PAGE)) ?? answer;
  } catch (error) {
    const kept = await caches.match(PAGE);
    if (kept === undefined) throw error;
    return kept;
  }
}

worker.addEventListener("install", (event) => {
  event.waitUntil(keepShell().then(() => worker.skipWaiting()));
});

worker.addEventListener("activate", (event) => {
  event.waitUntil(worker.clients.claim());
});

worker.addEventListener("message", (event) => {
  if (event.data === "refresh") event.waitUntil(keepShell());
});

worker.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== worker.location.origin) return;
  if (url.pathname === PAGE) event.respondWith(page(event.request));
  else if (url.pathname.startsWith(at("assets/")) || PUBLIC.includes(url.pathname))
    event.respondWith(caches.match(event.request).then((kept) => kept ?? fetch(event.request)));
});

// -- notifications ------------------------------------------------------------------------------------------------------

/** As in push.ts. */
const NEEDS = `tidings-push ${PAGE}`;
const NEEDS_FILE = at("push.json");
/** A token that ends sooner is exchanged (ms): the page may not be opened for days. */
const REFRESH_BEFORE = 12 * 3_600_000;
const ATTEMPTS = 3;
const PAUSE = 2_000;

/** What a notification remembers. Those of the page have it, too. */
interface Shown {
  /** The address in the page */
  readonly open: string;
  readonly seq: number;
  readonly room_id?: string;
  readonly thread?: string | null;
}

/** What the types of the browser leave out. */
type WithActions = NotificationOptions & {
  readonly actions?: readonly { readonly action: string; readonly title: string; readonly type?: "text" }[];
};
type WithBadge = WorkerNavigator & { setAppBadge?: (count: number) => Promise<void> };

async function needs(): Promise<WorkerNeeds | null> {
  const kept = await (await caches.open(NEEDS)).match(NEEDS_FILE);
  return kept === undefined ? null : ((await kept.json()) as WorkerNeeds);
}

function post(path: string, token: string, body: object, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(path, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
}

/** Exchange a token that ends soon: subscriptions end with their session. */
async function refresh(kept: WorkerNeeds): Promise<void> {
  if (Date.parse(kept.session.expires_at) - Date.now() >= REFRESH_BEFORE) return;
  const answer = await post("api/refresh", kept.session.token, {}).catch(() => null);
  if (answer?.ok !== true) return;
  const { token, expires_at } = (await answer.json()) as WorkerNeeds["session"];
  const renewed: WorkerNeeds = { ...kept, session: { ...kept.session, token, expires_at } };
  await (await caches.open(NEEDS)).put(NEEDS_FILE, new Response(JSON.stringify(renewed)));
}

/** A page that somebody looks at shows the message itself; one in the background may have notified of it already. */
async function isKnown({ room_id, seq }: PushNotification): Promise<boolean> {
  const windows = await worker.clients.matchAll({ type: "window", includeUncontrolled: true });
  if (windows.some(({ visibilityState }) => visibilityState === "visible")) return true;
  const shown = await worker.registration.getNotifications({ tag: room_id });
  return shown.some(({ data }) => ((data as Shown | null)?.seq ?? 0) >= seq);
}

async function notify(message: PushNotification): Promise<void> {
  await (navigator as WithBadge).setAppBadge?.(message.unread);
  if (await isKnown(message)) return;
  const { room_id, seq, thread, text } = message;
  const kept = await needs();
  const sender = message.display_name ?? message.sender;
  const room = message.title;
  const open = `./#/room/${[room_id, seq, ...(thread === null ? [] : [thread])].map(encodeURIComponent).join("/")}`;
  const shown: Shown = { open, seq, room_id, thread };
  const options: WithActions = {
    tag: room_id,
    icon: "icon-192.png",
    data: shown,
    ...(text === null ? {} : { body: text }),
    ...(kept === null || text === null
      ? {}
      : { actions: [{ action: "reply", type: "text", title: kept.texts.reply }] }),
  };
  const inRoom = kept?.texts.sender_in_room ?? "{sender} · {room}";
  const title =
    sender === null
      ? (kept?.texts.new_message ?? "Tidings")
      : room === null
        ? sender
        : inRoom.replace(/\{(sender|room)\}/g, (_, name: string) => (name === "sender" ? sender : room));
  await worker.registration.showNotification(title, options);
  if (kept !== null) await refresh(kept);
}

/** Send a reply: once, however often it is tried. */
async function reply({ room_id, thread, open, seq }: Shown, content: string): Promise<void> {
  const kept = await needs();
  const key = crypto.randomUUID();
  const message = { room_id, content, ...(thread == null ? {} : { thread }) };
  for (let attempt = 1; kept !== null && attempt <= ATTEMPTS; attempt += 1) {
    const headers = { "idempotency-key": key };
    const answer = await post("api/messages", kept.session.token, message, headers).catch(() => null);
    if (answer?.ok === true) return;
    if (answer !== null && answer.status < 500 && answer.status !== 429) break;
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
  const data: Shown = { open, seq };
  await worker.registration.showNotification(kept?.texts.not_sent ?? "Tidings", { body: content, data });
}

/** After the browser has ended a subscription. The server forgets that one when the push service says that it ended. */
async function subscribeAnew(): Promise<void> {
  const kept = await needs();
  if (kept === null) return;
  const { session, public_key, with_content } = kept;
  const options = { userVisibleOnly: true, applicationServerKey: public_key };
  const { endpoint, keys } = (await worker.registration.pushManager.subscribe(options)).toJSON();
  await post("api/push", session.token, { endpoint, keys, with_content });
}

async function openPage(target: string): Promise<void> {
  const [window] = await worker.clients.matchAll({ type: "window" });
  if (window === undefined) return void (await worker.clients.openWindow(target));
  window.postMessage({ open: target });
  await window.focus();
}

worker.addEventListener("push", (event) => {
  if (event.data !== null) event.waitUntil(notify(event.data.json() as PushNotification));
});

worker.addEventListener("pushsubscriptionchange", (event) => {
  // A failure is not the end: the page subscribes when it is next opened.
  (event as ExtendableEvent).waitUntil(subscribeAnew());
});

worker.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const shown = event.notification.data as Shown | null;
  const text = (event as NotificationEvent & { readonly reply?: string | null }).reply?.trim() ?? "";
  // A browser without fields in notifications shows a button: it opens the room.
  const isReply = event.action === "reply" && text !== "" && shown !== null;
  event.waitUntil(isReply ? reply(shown, text) : openPage(shown?.open ?? PAGE));
});
