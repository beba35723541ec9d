/// <reference lib="webworker" />
/**
 * The service worker stores the page's own files, so that the page opens without a server. It never touches messages:
 * those are in IndexedDB, and every other request goes to the network unchanged.
 */
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

worker.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const target = String(event.notification.data ?? PAGE);
  event.waitUntil(
    worker.clients.matchAll({ type: "window" }).then(async (windows) => {
      const window = windows[0];
      if (window === undefined) return void (await worker.clients.openWindow(target));
      await window.focus();
      window.postMessage({ open: target });
    }),
  );
});
