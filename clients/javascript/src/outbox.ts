/**
 * Messages that wait to be acknowledged. Each is stored before it is sent, then sent with the same `client_id` until
 * the server answers, one at a time and in order. Tabs on one store share one outbox: one of them sends at a time.
 * Files of a message are uploaded before it is sent; the later messages of its room wait for it, others do not.
 * Keys: `o/N` a message, `t/N` whether it was tried, `n/outbox` the last N; of its file F, `b/N/F` the content and
 * `u/N/F` the upload.
 */
import type { Connection } from "./connection.ts";
import type { MessageFile } from "./contract.gen.ts";
import { isClosed, isTemporary, storeFailed, TidingsError } from "./errors.ts";
import { Loop } from "./loop.ts";
import { Mutexes, type Row, type Store, sortable } from "./store.ts";
import type { Data, Message } from "./types.ts";
import type { Uploads } from "./uploads.ts";

/** A room reference of the contract. */
export type RoomRef = { readonly room_id: string } | { readonly topic_name: string } | { readonly username: string };

export interface FileDraft {
  readonly content: Blob;
  /** Default: that of a `File`, else "file" */
  readonly name?: string;
  /** What it shows, for those who do not see it */
  readonly alt?: string;
}

export interface Draft {
  readonly content: string;
  /** A message with the same one is sent once. Default: a random one. */
  readonly client_id?: string;
  readonly reply_to?: string;
  readonly thread?: string;
  readonly data?: Data;
  /** With files, `content` may be empty. */
  readonly files?: readonly FileDraft[];
}

/** A message as the server gets it. */
export type Outgoing = RoomRef &
  Omit<Draft, "files"> & { readonly client_id: string; readonly files?: MessageFile[] };

/** A file of a message in the outbox. */
export interface UnsentFile {
  readonly name: string;
  readonly type: string;
  /** Bytes */
  readonly size: number;
  readonly alt: string | null;
  /** Bytes that the server has */
  readonly sent: number;
}

/** Why the server refused a message. */
export type Refusal = Pick<TidingsError, "code" | "message" | "details">;

/** A file as it is stored with its message; `at` is its F. */
export interface StoredFile extends UnsentFile {
  readonly at: number;
}

export interface Waiting extends Omit<Draft, "files"> {
  readonly client_id: string;
  readonly room: RoomRef;
  readonly created_at: string;
  /** Whether a refusal stays until somebody decides; otherwise it goes to the caller of `send` alone. */
  readonly keeps: boolean;
  readonly refused: Refusal | null;
  /** How often it was refused, and changed or sent again */
  readonly again?: number;
  readonly files?: readonly StoredFile[];
}

export interface OutboxOptions {
  readonly store: Store;
  send(request: Outgoing): Promise<Message>;
  /** undefined: this device does not know it. */
  roomIdOf(room: RoomRef): string | undefined;
  isOnline(): boolean;
  readonly server: Pick<Connection, "ask" | "at">;
  /** The server has it. Called before it leaves the outbox. */
  sent(message: Message): Promise<void>;
  changed(): void;
}

/** What tabs tell each other. */
type Post =
  | { readonly is: "outbox" }
  | { readonly is: "sent"; readonly client_id: string; readonly message: Message }
  | {
      readonly is: "refused";
      readonly client_id: string;
      readonly error: Refusal;
    };

/** A message in the outbox. */
export class Unsent {
  readonly client_id: string;
  readonly room: RoomRef;
  readonly created_at: string;
  readonly content: string;
  readonly reply_to: string | null;
  readonly thread: string | null;
  readonly data: Data | null;
  readonly files: readonly UnsentFile[];
  /** `waiting`: not tried; its files may be under way. `sending`: tried, the server may have it. `refused`: see `error`. */
  readonly state: "waiting" | "sending" | "refused";
  readonly error: Refusal | null;
  private readonly outbox: Outbox;
  private readonly key: string;
  private readonly outcome: Promise<Message>;

  constructor(outbox: Outbox, key: string, waiting: Waiting, tried: boolean, outcome: Promise<Message>) {
    this.outbox = outbox;
    this.key = key;
    this.outcome = outcome;
    this.client_id = waiting.client_id;
    this.room = waiting.room;
    this.created_at = waiting.created_at;
    this.content = waiting.content;
    this.reply_to = waiting.reply_to ?? null;
    this.thread = waiting.thread ?? null;
    this.data = waiting.data ?? null;
    this.files = waiting.files ?? [];
    this.state = waiting.refused !== null ? "refused" : tried ? "sending" : "waiting";
    this.error = waiting.refused;
  }

  /** Resolves with the message when the server has it. Rejects when it is refused, withdrawn, or the client closes. */
  sent(): Promise<Message> {
    return this.outbox.result(this.client_id) ?? this.outcome;
  }

  /** Change what is sent. Resolves to false if it was tried already. */
  edit(content: string): Promise<boolean> {
    return this.outbox.change(this.client_id, (waiting) => ({ ...waiting, content }));
  }

  /** Remove it. Resolves to false if it was tried already and not refused. */
  withdraw(): Promise<boolean> {
    return this.outbox.change(this.client_id, () => undefined);
  }

  /** The content of a file; undefined: the outbox has it no more. */
  file(index: number): Promise<Blob | undefined> {
    return this.outbox.contentOf(`${this.key.slice(2)}/${(this.files[index] as StoredFile | undefined)?.at}`);
  }

  /**
   * Remove a file, and the message if it has neither text nor another file. Resolves to false if the message was
   * tried already and not refused.
   */
  withoutFile(index: number): Promise<boolean> {
    const removed = this.files[index] as StoredFile | undefined;
    return this.outbox.change(this.client_id, (waiting) => {
      const files = waiting.files?.filter(({ at }) => at !== removed?.at);
      return files?.length || waiting.content || waiting.data ? { ...waiting, files: files ?? [] } : undefined;
    });
  }

  /** Send a refused message again, at its place. */
  retry(): Promise<boolean> {
    return this.outbox.change(this.client_id, (waiting) => waiting);
  }
}

interface Result {
  readonly promise: Promise<Message>;
  readonly resolve: (message: Message) => void;
  readonly reject: (error: unknown) => void;
}

const COUNTER = "n/outbox";

export class Outbox {
  private readonly options: OutboxOptions;
  private readonly results = new Map<string, Result>();
  private readonly unwatch: () => void;
  private readonly byKey = new Map<string, Unsent>();
  private held: readonly Unsent[] = [];
  private uploads: Uploads | undefined;
  private isClosed = false;
  private readonly loop: Loop;
  private changes = 0;
  private readonly adding = new Mutexes();

  constructor(options: OutboxOptions) {
    this.options = options;
    const { store, isOnline } = options;
    this.loop = new Loop({ store, lock: "outbox", isOnline, round: () => this.flush() });
    this.unwatch = options.store.watch((post) => this.heard(post as Post));
  }

  /** What waits or was refused, in order. */
  get unsent(): readonly Unsent[] {
    return this.held;
  }

  /** Read the stored outbox: at the start, and when another tab has changed it. */
  async load(): Promise<void> {
    let load: number;
    let tried: Set<string>;
    let rows: Row[];
    do {
      load = this.changes;
      tried = new Set((await this.options.store.range("t/")).map(([key]) => key.slice(2)));
      rows = await this.options.store.range("o/");
      await this.uploads?.load();
    } while (load !== this.changes); // what was read is outdated
    this.byKey.clear();
    for (const [key, value] of rows) this.byKey.set(key, this.shown(key, value as Waiting, tried.has(key.slice(2))));
    this.show();
    if (this.uploads === undefined && rows.some(hasFiles))
      void this.loadUploads()
        .then(() => this.load())
        .catch(() => undefined);
  }

  /** Store a message, durably, after those that were added before. It is sent as soon as there is a connection. */
  add(room: RoomRef, draft: Draft, keeps: boolean): Promise<Unsent> {
    return this.adding.run("add", () => this.addNext(room, draft, keeps));
  }

  private async addNext(room: RoomRef, draft: Draft, keeps: boolean): Promise<Unsent> {
    const { store } = this.options;
    if (this.isClosed) throw isClosed();
    const { files = [], client_id = randomId(), ...rest } = draft;
    const waiting: Waiting = {
      room,
      created_at: new Date().toISOString(),
      keeps,
      refused: null,
      ...rest,
      client_id,
      ...(files.length === 0 ? {} : { files: files.map(stored) }),
    };
    let key: string;
    try {
      for (let next = (((await store.get(COUNTER)) as number | undefined) ?? 0) + 1; ; next++) {
        key = `o/${sortable(next)}`;
        const writes = [
          [COUNTER, next],
          [key, waiting],
          ...files.map(({ content }, at) => [`b/${key.slice(2)}/${at}`, content] as const),
        ] as const;
        const [stored] = await store.commit([{ unless: { key: COUNTER, reaches: next }, writes }]);
        if (stored) break; // otherwise another one took this number
      }
    } catch (error) {
      throw storeFailed(error);
    }
    const unsent = this.shown(key, waiting, false);
    this.put(key, unsent);
    this.tell({ is: "outbox" });
    this.wake();
    return unsent;
  }

  /** The outcome of a message that is in the outbox. */
  result(client_id: string): Promise<Message> | undefined {
    return this.results.get(client_id)?.promise;
  }

  /** Change a message, after the changes before this one; undefined: remove it. */
  change(client_id: string, changed: (waiting: Waiting) => Waiting | undefined): Promise<boolean> {
    return this.options.store.lock("change", () => this.changeNext(client_id, changed));
  }

  private async changeNext(client_id: string, changed: (waiting: Waiting) => Waiting | undefined): Promise<boolean> {
    const { store } = this.options;
    const key = await this.keyOf(client_id);
    const waiting = key === null ? undefined : ((await store.get(key)) as Waiting | undefined);
    if (key === null || waiting === undefined) return false;
    const tried = `t/${key.slice(2)}`;
    let next = changed(waiting);
    if (next !== undefined && waiting.refused !== null)
      next = { ...next, refused: null, again: (waiting.again ?? 0) + 1 };
    const removed = waiting.files?.filter(({ at }) => !next?.files?.some((file) => file.at === at));
    // A refused message was answered: it may be changed. It did not take effect, so its `client_id` is free.
    const [done] = await store.commit([
      {
        ...(waiting.refused === null ? { unless: { key: tried, reaches: 1 } } : {}),
        writes: [[key, next], [tried, undefined], ...keysOf("b", key, removed)],
      },
    ]);
    if (!done) return false;
    this.put(key, next === undefined ? undefined : this.shown(key, next, false));
    if (next === undefined) this.settle(client_id, withdrawn());
    this.tell({ is: "outbox" });
    this.wake();
    return true;
  }

  /** An own message has arrived as an event, perhaps one that another tab sent. */
  arrived(message: Message): void {
    if (message.client_id !== null && this.results.has(message.client_id)) this.settle(message.client_id, message);
  }

  /** There is a connection or a new message: try to send. */
  wake(): void {
    this.loop.wake();
  }

  /** Stop. What waits stays in the store. */
  async close(): Promise<void> {
    this.isClosed = true;
    this.unwatch();
    for (const client_id of [...this.results.keys()]) this.settle(client_id, isClosed());
    await this.loop.close();
    await this.uploads?.close();
  }

  private async flush(): Promise<boolean> {
    const { store } = this.options;
    const rows = await store.range("o/");
    const some = rows.some(hasFiles) || (await store.range("u/", { limit: 1 })).length > 0;
    const uploads = some ? await this.loadUploads() : undefined;
    uploads?.wake();
    const held: RoomRef[] = [];
    for (const [key, value] of rows) {
      if (!this.loop.goesOn) return false;
      if ((value as Waiting).refused !== null || (await uploads?.holds(key, value as Waiting, held))) continue;
      const tried = `t/${key.slice(2)}`;
      await store.commit([{ writes: [[tried, 1]] }]);
      // Read after it is marked as tried: from then on it is not edited any more.
      const waiting = (await store.get(key)) as Waiting | undefined;
      if (waiting === undefined) {
        await store.commit([{ writes: [[tried, undefined]] }]);
        continue;
      }
      if (this.byKey.get(key)?.state !== "sending") this.put(key, this.shown(key, waiting, true));
      if (!(await this.sendOne(key, waiting))) return false;
    }
    return true;
  }

  /** Returns false if it has to be sent again later, and all after it. */
  private async sendOne(key: string, waiting: Waiting): Promise<boolean> {
    const { store } = this.options;
    const { client_id, room, content, reply_to, thread, data, keeps, files } = waiting;
    const gone = [[key, undefined], [`t/${key.slice(2)}`, undefined], ...keysOf("b", key, files)] as const;
    try {
      const message = await this.options.send({
        ...room,
        content,
        client_id,
        ...(reply_to === undefined ? {} : { reply_to }),
        ...(thread === undefined ? {} : { thread }),
        ...(data === undefined ? {} : { data }),
        ...(files?.length ? await this.uploads?.filesOf(key, files) : {}),
      });
      this.loop.succeeded();
      await this.options.sent(message);
      await store.commit([{ writes: [...gone, ...keysOf("u", key, files)] }]);
      this.put(key, undefined);
      this.settle(client_id, message);
      this.tell({ is: "sent", client_id, message });
    } catch (error) {
      if (!(error instanceof TidingsError)) throw error;
      const refused: Refusal = { code: error.code, message: error.message, details: error.details };
      if (isTemporary(error) || !this.loop.goesOn) {
        this.loop.rest(error.retryAfter);
        return false;
      }
      await store.commit([{ writes: keeps ? [[key, { ...waiting, refused }], gone[1]] : gone }]);
      this.settle(client_id, error);
      this.put(key, keeps ? this.shown(key, { ...waiting, refused }, true) : undefined);
      this.tell({ is: "refused", client_id, error: refused });
      this.uploads?.wake(); // to delete those of a message that does not stay
    }
    return true;
  }

  /** What was stored as the content of a file. */
  async contentOf(file: string): Promise<Blob | undefined> {
    return (await this.options.store.get(`b/${file}`)) as Blob | undefined;
  }

  /** Show a message in another way: its uploads have come further. */
  renew(key: string): void {
    const unsent = this.byKey.get(key);
    if (unsent !== undefined) this.put(key, this.uploads?.shown(key, unsent));
    this.tell({ is: "outbox" });
  }

  /** The uploads are another module, for messages that have files. */
  private async loadUploads(): Promise<Uploads> {
    const { Uploads } = await import("./uploads.ts");
    this.uploads ??= new Uploads(this, this.options);
    return this.uploads;
  }

  private async keyOf(client_id: string): Promise<string | null> {
    const rows = await this.options.store.range("o/");
    return rows.find(([, value]) => (value as Waiting).client_id === client_id)?.[0] ?? null;
  }

  private expect(client_id: string, refused: Refusal | null): Promise<Message> {
    if (refused !== null) {
      const rejected = Promise.reject(new TidingsError(refused));
      rejected.catch(() => undefined);
      return rejected;
    }
    const known = this.results.get(client_id);
    if (known !== undefined) return known.promise;
    let resolve: Result["resolve"] = () => undefined;
    let reject: Result["reject"] = () => undefined;
    const promise = new Promise<Message>((yes, no) => {
      resolve = yes;
      reject = no;
    });
    promise.catch(() => undefined); // whoever waits for it is told; nobody has to
    this.results.set(client_id, { promise, resolve, reject });
    return promise;
  }

  private shown(key: string, waiting: Waiting, tried: boolean): Unsent {
    const unsent = new Unsent(this, key, waiting, tried, this.expect(waiting.client_id, waiting.refused));
    return this.uploads?.shown(key, unsent) ?? unsent;
  }

  private put(key: string, unsent: Unsent | undefined): void {
    this.changes++;
    const last = [...this.byKey.keys()].at(-1) ?? "";
    if (unsent === undefined) this.byKey.delete(key);
    else this.byKey.set(key, unsent);
    if (unsent !== undefined && key < last) {
      const sorted = [...this.byKey].sort(([one], [other]) => (one < other ? -1 : 1));
      this.byKey.clear();
      for (const [one, value] of sorted) this.byKey.set(one, value);
    }
    this.show();
  }

  private show(): void {
    this.held = [...this.byKey.values()];
    this.options.changed();
  }

  private settle(client_id: string, outcome: Message | TidingsError): void {
    const result = this.results.get(client_id);
    this.results.delete(client_id);
    if (outcome instanceof TidingsError) result?.reject(outcome);
    else result?.resolve(outcome);
  }

  private tell(post: Post): void {
    if (!this.isClosed) this.options.store.post(post);
  }

  /** Another tab has changed the outbox. */
  private heard(post: Post): void {
    if (post.is === "sent") this.settle(post.client_id, post.message);
    if (post.is === "refused") this.settle(post.client_id, new TidingsError(post.error));
    void this.load()
      .then(() => this.wake())
      .catch(() => undefined);
  }
}

function hasFiles([, value]: Row): boolean {
  return (value as Waiting).files !== undefined;
}

/** Writes that delete what is stored of files. */
function keysOf(prefix: "b" | "u", key: string, files: readonly StoredFile[] = []) {
  return files.map(({ at }) => [`${prefix}${key.slice(1)}/${at}`, undefined] as const);
}

function stored({ content, name, alt }: FileDraft, at: number): StoredFile {
  const named = name || (content as Partial<File>).name || "file";
  return { at, name: named, type: content.type, size: content.size, alt: alt ?? null, sent: 0 };
}

function withdrawn(): TidingsError {
  return new TidingsError({ code: "withdrawn", message: "The message was withdrawn." });
}

/** 128 random bits. `crypto.randomUUID` is missing in pages that come over plain HTTP. */
export function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
