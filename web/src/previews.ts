/** The previews of links in messages: asked for together, when their rows are about to be seen. */
import type { Client } from "./client.ts";
import type { LinkPreview, Message } from "./contract.gen.ts";

/** How long (ms) rows are collected for one request. */
const COLLECT = 50;
/** Messages of one request */
const MOST = 50;
/** When (ms) to ask again for pages that the server is fetching */
const AGAIN = [700, 1500, 3000, 6000] as const;
/** Messages whose previews are held */
const HELD = 2000;

export const NO_PREVIEWS: readonly LinkPreview[] = [];

export class PreviewCache {
  private readonly client: Pick<Client, "ask">;
  private readonly held = new Map<string, readonly LinkPreview[]>();
  private readonly waiting = new Map<string, { readonly message: Message; readonly tries: number }>();
  private readonly listeners = new Set<() => void>();
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(client: Pick<Client, "ask">) {
    this.client = client;
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** The previews of a message, as far as they are known. The same object until they change. */
  of(message: Message): readonly LinkPreview[] {
    return this.held.get(keyOf(message)) ?? NO_PREVIEWS;
  }

  /** Ask for the previews of a message, unless they are known. */
  want(message: Message): void {
    if (!this.held.has(keyOf(message))) this.ask(message, 0, COLLECT);
  }

  private ask(message: Message, tries: number, within: number): void {
    this.waiting.set(keyOf(message), { message, tries });
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.request();
    }, within);
  }

  private request(): void {
    const asked = [...this.waiting.values()].slice(-MOST);
    for (const { message } of asked) this.waiting.delete(keyOf(message));
    for (const { message, tries } of this.waiting.values()) this.ask(message, tries, COLLECT);
    this.client.ask("get_previews", { message_ids: asked.map(({ message }) => message.id) }).then(
      ({ previews, pending }) => {
        if (this.held.size > HELD) this.held.clear();
        for (const { message, tries } of asked) {
          const found = previews.filter(({ message_id }) => message_id === message.id);
          const wait = AGAIN[tries];
          if (!pending.includes(message.id) || found.length > 0) this.held.set(keyOf(message), found);
          if (pending.includes(message.id) && wait !== undefined)
            setTimeout(() => this.ask(message, tries + 1, COLLECT), wait);
        }
        for (const listener of this.listeners) listener();
      },
      () => undefined, // a row that is shown again asks again
    );
  }
}

/** An edited message has other links. */
function keyOf({ id, edited_at }: Message): string {
  return `${id} ${edited_at ?? ""}`;
}

const caches = new WeakMap<Client, PreviewCache>();

export function previewsOf(client: Client): PreviewCache {
  const cache = caches.get(client) ?? new PreviewCache(client);
  caches.set(client, cache);
  return cache;
}

const LINK = /(?<![\p{L}\p{N}_<])https?:\/\/[^\s<>"`|]+/giu;
const FINAL = /^[?!.,:;*_~'")\]]*$/;

/** The content with a link in angle brackets, so that it has no preview. */
export function withoutPreview(content: string, url: string): string {
  return content.replace(LINK, (found) => {
    const rest = found.slice(url.length);
    return found.startsWith(url) && FINAL.test(rest) ? `<${url}>${rest}` : found;
  });
}
