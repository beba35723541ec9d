/** Links to the files of messages: asked for together, when their rows are about to be seen. */
import type { Client } from "./client.ts";
import type { Attachment, LinkedFile, Message } from "./contract.gen.ts";
import { locale } from "./i18n.ts";

/** How long (ms) rows are collected for one request. */
const COLLECT = 30;
/** Files of one request: the server's limit */
const MOST = 100;
/** A link works for an hour; an older one than this (ms) is asked for again. */
const GOOD_FOR = 45 * 60_000;
const IMAGE = /^image\/(?:png|jpeg|gif|webp|avif)$/;

interface Held {
  readonly file: LinkedFile;
  readonly since: number;
}

export class FileLinks {
  private readonly client: Pick<Client, "ask">;
  private readonly held = new Map<string, Held>();
  private readonly asked = new Map<string, Promise<void>>();
  private readonly listeners = new Set<() => void>();
  private collecting: { readonly ids: string[]; readonly done: Promise<void> } | null = null;

  constructor(client: Pick<Client, "ask">) {
    this.client = client;
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** The last known link to a file; the same object until it is renewed. */
  of(id: string): LinkedFile | undefined {
    return this.held.get(id)?.file;
  }

  /** Whether the held link to a file still works, as far as its age tells. */
  isGood(id: string): boolean {
    return performance.now() - (this.held.get(id)?.since ?? Number.NEGATIVE_INFINITY) < GOOD_FOR;
  }

  /** A link that works now. Undefined: the file is gone, or not the user's to read. Raises a `TidingsError`. */
  async fresh(id: string): Promise<LinkedFile | undefined> {
    if (!this.isGood(id)) await this.ask(id);
    return this.of(id);
  }

  /** The link has failed: ask for another one. */
  renew(id: string): Promise<void> {
    this.held.delete(id);
    return this.ask(id);
  }

  private ask(id: string): Promise<void> {
    const known = this.asked.get(id);
    if (known !== undefined) return known;
    if (this.collecting === null || this.collecting.ids.length >= MOST) {
      const ids: string[] = [];
      this.collecting = { ids, done: this.request(ids) };
    }
    this.collecting.ids.push(id);
    const { done } = this.collecting;
    this.asked.set(id, done);
    return done;
  }

  private async request(ids: string[]): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, COLLECT));
    if (this.collecting?.ids === ids) this.collecting = null;
    const since = performance.now();
    try {
      for (const file of (await this.client.ask("get_files", { file_ids: ids })).files)
        this.held.set(file.id, { file, since });
    } finally {
      for (const id of ids) this.asked.delete(id);
    }
    for (const listener of this.listeners) listener();
  }
}

const links = new WeakMap<Client, FileLinks>();

export function linksOf(client: Client): FileLinks {
  const known = links.get(client) ?? new FileLinks(client);
  links.set(client, known);
  return known;
}

/** Whether a file is shown as an image: the server has decoded it, and knows its size. */
export function isImage({ width, height }: Pick<Attachment, "width" | "height">): boolean {
  return width !== null && height !== null;
}

/** Whether this page may show a file of the user's as an image, before the server has judged it. */
export function looksLikeImage({ type }: { readonly type: string }): boolean {
  return IMAGE.test(type);
}

/** The images of messages, in order. */
export function imagesOf(messages: readonly Message[]): Attachment[] {
  return messages.flatMap(({ deleted, files = [] }) => (deleted ? [] : files.filter(isImage)));
}

const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"] as const;

/** "1.4 MB". */
export function sizeOf(bytes: number): string {
  const power = Math.min(UNITS.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  const unit = UNITS[power] ?? "byte";
  const options = { style: "unit", unit, unitDisplay: power === 0 ? "long" : "short" } as const;
  return new Intl.NumberFormat(locale, { ...options, maximumFractionDigits: power > 1 ? 1 : 0 }).format(
    bytes / 1000 ** power,
  );
}
