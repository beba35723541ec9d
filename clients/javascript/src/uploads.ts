/**
 * The uploads of files of messages in the outbox, by tus 1.0 (https://tus.io/protocols/resumable-upload). One file at
 * a time over all tabs, in the order of the messages. A file is wanted as long as the store has its content.
 */

import type { MessageFile } from "./contract.gen.ts";
import { isTemporary, noAnswer, TidingsError } from "./errors.ts";
import { Loop } from "./loop.ts";
import type { Outbox, OutboxOptions, Refusal, RoomRef, StoredFile, Unsent, Waiting } from "./outbox.ts";

/** Bytes of a part, of a file that has up to `PARTS` of these */
const PART = 512 * 1024;
const PARTS = 1000;
/** A part that takes longer (ms, and ms for each byte) is given up. What has come of it, the server keeps. */
const ANSWER_WITHIN = 90_000;
const MS_PER_BYTE = 1 / 8;
/** So often (ms) it is noted how far an upload is, and looked whether it is still wanted. */
const NOTED = 300;
/** The server keeps a file without a message for a day; so often (ms) it is asked whether it still has it. */
const FRESH = 10 * 60_000;
/** Codes of answers without a body */
const CODES: Readonly<Record<number, TidingsError["code"]>> = { 404: "not_found", 413: "too_large" };

/** What is stored of an upload: its `id` and `url` once it was begun. */
interface Upload {
  readonly id?: string;
  readonly url?: string;
  /** Bytes that the server has */
  readonly sent: number;
  /** When the server last said that it has the file (ms) */
  readonly complete?: number;
  readonly refused?: Refusal;
  /** `again` of the message, when it was complete or refused */
  readonly again?: number;
}

type Begun = Upload & Required<Pick<Upload, "id" | "url">>;

/** A file whose upload is to go on. `place` is N/F. */
interface Job {
  readonly place: string;
  readonly file: StoredFile;
  readonly again: number;
}

export class Uploads {
  private readonly outbox: Outbox;
  private readonly options: OutboxOptions;
  private readonly loop: Loop;
  private readonly sent = new Map<string, number>();

  constructor(outbox: Outbox, options: OutboxOptions) {
    this.outbox = outbox;
    this.options = options;
    const { store, isOnline } = options;
    this.loop = new Loop({ store, lock: "uploads", isOnline, round: () => this.all() });
  }

  wake(): void {
    this.loop.wake();
  }

  close(): Promise<void> {
    return this.loop.close();
  }

  // For the outbox

  /** Read how far all uploads are. */
  async load(): Promise<void> {
    for (const [place, { sent }] of await this.stored()) this.sent.set(place, sent);
  }

  /** A message with its uploads as they are now. */
  shown(key: string, unsent: Unsent): Unsent {
    if (unsent.files.length === 0) return unsent;
    const files = (unsent.files as StoredFile[]).map((file) => ({
      ...file,
      sent: this.sent.get(`${key.slice(2)}/${file.at}`) ?? 0,
    }));
    return Object.assign(Object.create(Object.getPrototypeOf(unsent)), unsent, { files });
  }

  /** Whether a message waits, for its own files or for an earlier message of its room in `held`, to which it is added. */
  async holds(key: string, waiting: Waiting, held: RoomRef[]): Promise<boolean> {
    const holds = held.some((room) => this.maySame(room, waiting.room)) || !(await this.isReady(key, waiting));
    if (holds) held.push(waiting.room);
    return holds;
  }

  /** The files of a message as the server knows them. Rejects with the `TidingsError` of one that was refused. */
  async filesOf(key: string, files: readonly StoredFile[]): Promise<{ files: MessageFile[] }> {
    const uploads = await this.stored(key.slice(2));
    const known = files.map(({ at, alt }) => {
      const { id, refused } = uploads.get(`${key.slice(2)}/${at}`) ?? {};
      if (refused !== undefined) throw new TidingsError(refused);
      if (id === undefined) throw noAnswer("The upload is not complete.");
      return { id, alt };
    });
    return { files: known };
  }

  /** References of two kinds may mean the same room. */
  private maySame(one: RoomRef, other: RoomRef): boolean {
    const [[kind, name], [otherKind, otherName]] = [this.nameOf(one), this.nameOf(other)];
    return kind !== otherKind || name === otherName;
  }

  private nameOf(room: RoomRef): readonly [kind: string, name: string] {
    const [kind, name] = Object.entries(room)[0] as [string, string];
    const room_id = this.options.roomIdOf(room);
    return room_id === undefined ? [kind, name.trim().normalize("NFKC").toLowerCase()] : ["room_id", room_id];
  }

  /** Whether a message can be sent, or refused, as far as its files are concerned. */
  private async isReady(key: string, waiting: Waiting): Promise<boolean> {
    const { files = [] } = waiting;
    if (files.length === 0) return true;
    const uploads = await this.stored(key.slice(2));
    const own = files.map(({ at }) => uploads.get(`${key.slice(2)}/${at}`));
    return own.some((upload) => isRefused(upload, waiting)) || own.every((upload) => isComplete(upload, waiting));
  }

  /** What is stored of uploads, by N/F: of one message, or of all. */
  private async stored(message?: string): Promise<Map<string, Upload>> {
    const rows = await this.options.store.range(message === undefined ? "u/" : `u/${message}/`);
    return new Map(rows.map(([key, upload]) => [key.slice(2), upload as Upload]));
  }

  /** Store how far an upload is; undefined: there is none. */
  private async note(place: string, upload: Upload | undefined): Promise<void> {
    await this.options.store.commit([{ writes: [[`u/${place}`, upload]] }]);
    if (upload === undefined) this.sent.delete(place);
    else this.sent.set(place, upload.sent);
    this.outbox.renew(`o/${place.slice(0, place.lastIndexOf("/"))}`);
  }

  // The loop

  private async all(): Promise<boolean> {
    for (let next = await this.next(); next !== null; next = await this.next())
      if (!this.loop.goesOn || !(await next())) return false;
    return true;
  }

  /** What is to do first. It resolves to false if it has to be done again later. */
  private async next(): Promise<(() => Promise<boolean>) | null> {
    // In this order: an upload whose message is missing then was sent or withdrawn.
    const uploads = await this.stored();
    const orphans = new Map(uploads);
    let job: Job | null = null;
    for (const [key, value] of await this.options.store.range("o/")) {
      const waiting = value as Waiting;
      const jobs = (waiting.files ?? []).map((file): Job => {
        return { place: `${key.slice(2)}/${file.at}`, file, again: waiting.again ?? 0 };
      });
      for (const { place } of jobs) orphans.delete(place);
      if (job !== null || waiting.refused !== null) continue;
      if (jobs.some(({ place }) => isRefused(uploads.get(place), waiting))) continue;
      job = jobs.find(({ place }) => !isComplete(uploads.get(place), waiting)) ?? null;
    }
    for (const [place, { id }] of orphans) return () => this.discard(place, id);
    if (job === null) return null;
    const { place } = job;
    const found = job;
    return () => this.upload(found, uploads.get(place));
  }

  private async upload({ place, file, again }: Job, known: Upload | undefined): Promise<boolean> {
    const { outbox, loop } = this;
    let id = known?.id;
    try {
      const content = await outbox.contentOf(place);
      if (content === undefined) throw new TidingsError({ code: "store_failed", message: "The file is lost." });
      let upload = await this.begin(place, file, known);
      id = upload.id;
      const size = Math.max(PART, Math.ceil(file.size / PARTS));
      let noted = performance.now();
      for (let isComplete = false; !isComplete; ) {
        const sent = await this.request(place, upload, content.slice(upload.sent, upload.sent + size));
        loop.succeeded();
        isComplete = sent === file.size;
        upload = { ...upload, sent, ...(isComplete ? { complete: Date.now(), again } : {}) };
        if (!isComplete && performance.now() - noted < NOTED) continue;
        await this.note(place, upload);
        noted = performance.now();
      }
    } catch (error) {
      if (!(error instanceof TidingsError)) throw error;
      const { code, message, details } = error;
      if (code === "not_found") await this.note(place, undefined); // the upload has ended: another one begins
      if (code === "not_found" || code === "conflict" || isTemporary(error) || !loop.goesOn) {
        if ((await outbox.contentOf(place)) === undefined) return true;
        loop.rest(error.retryAfter);
        return false;
      }
      if (id !== undefined) await this.delete(id).catch(() => undefined);
      await this.note(place, { sent: 0, refused: { code, message, details }, again });
    }
    outbox.wake();
    return true;
  }

  /** An upload, with how much of it the server has. Its id is stored before the first byte goes. */
  private async begin(place: string, { name, size }: StoredFile, known: Upload = { sent: 0 }): Promise<Begun> {
    const { id, url } = known;
    let begun: Begun;
    if (id !== undefined && url !== undefined) {
      begun = { id, url, sent: await this.request(place, { id, url, sent: 0 }) };
      if (begun.sent === known.sent) return begun;
      this.loop.succeeded(); // the server has kept some of a part that broke off
    } else {
      const created = await this.options.server.ask("create_upload", { name, size });
      begun = { id: created.id, url: created.url, sent: 0 };
    }
    await this.note(place, begun);
    return begun;
  }

  /** Send a part, or without one ask: how many bytes the server has then. Rejects with a `TidingsError`. */
  private async request(place: string, upload: Begun, part?: Blob): Promise<number> {
    const { url, token } = this.options.server.at(upload.url);
    const headers: Record<string, string> = { authorization: `Bearer ${token}` };
    if (part !== undefined) {
      headers["content-type"] = "application/offset+octet-stream";
      headers["upload-offset"] = `${upload.sent}`;
    }
    const until = performance.now() + ANSWER_WITHIN + (part?.size ?? 0) * MS_PER_BYTE;
    const given = new AbortController();
    const look = async () => {
      const isWanted = (await this.outbox.contentOf(place).catch(() => undefined)) !== undefined;
      if (!isWanted || !this.loop.goesOn || performance.now() > until) given.abort();
    };
    const watch = setInterval(look, NOTED);
    try {
      await look();
      const method = part === undefined ? "HEAD" : "PATCH";
      const answer = await fetch(url, { method, headers, signal: given.signal, body: part ?? null });
      const offset = answer.headers.get("upload-offset");
      if (answer.ok && offset !== null) return Number(offset);
      const problem = part === undefined ? {} : await answer.json().catch(() => ({}));
      const { code = CODES[answer.status], detail = `The server answered with ${answer.status}.` } = problem;
      throw code === undefined ? noAnswer(detail) : new TidingsError({ ...problem, code, message: detail });
    } catch (error) {
      throw error instanceof TidingsError ? error : noAnswer(`The upload broke off: ${error}`);
    } finally {
      clearInterval(watch);
    }
  }

  /** Delete at the server what was begun of a file that is not wanted any more. */
  private async discard(place: string, id: string | undefined): Promise<boolean> {
    try {
      if (id !== undefined) await this.delete(id);
    } catch (error) {
      if (isTemporary(error) || !this.loop.goesOn) {
        this.loop.rest((error as TidingsError).retryAfter);
        return false;
      } // otherwise the server does not know it any more
    }
    await this.note(place, undefined);
    return true;
  }

  private delete(file_id: string): Promise<unknown> {
    return this.options.server.ask("delete_upload", { file_id });
  }
}

/** Whether an upload was refused since the message was last changed or sent again. */
function isRefused(upload: Upload | undefined, { again = 0 }: Waiting): boolean {
  return upload?.refused !== undefined && upload.again === again;
}

function isComplete(upload: Upload | undefined, { again = 0 }: Waiting): boolean {
  return upload?.complete !== undefined && upload.again === again && Date.now() - upload.complete < FRESH;
}
