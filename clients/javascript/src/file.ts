import {
  closeSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openAsBlob,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { TidingsError } from "./errors.ts";
import { randomId } from "./outbox.ts";
import { type Batch, MemoryStore } from "./store.ts";

/** A journal is rewritten when it is longer than this (bytes) and than twice what it held when last rewritten. */
const COMPACT_BEYOND = 1024 * 1024;

/** A value is missing if it was deleted, and null if it is a Blob: that is in a file of its own. */
type Line = readonly (readonly [key: string, value?: unknown, blob?: BlobFile])[];

interface BlobFile {
  readonly file: string;
  readonly type: string;
}

interface Waiting {
  readonly batches: readonly Batch[];
  readonly resolve: (applied: boolean[]) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * A store in a file, for Node: a journal of JSON lines, one for each write to the disk, each a whole transaction.
 * A line counts once it is fsync'ed; a last line that was cut by a crash is dropped. A Blob is in a file beside the
 * journal, fsync'ed before the line that names it, and removed after the line that deletes it. One client at a time may have it
 * open: for any other, in this process or another on this machine, `open` rejects with `store_in_use`.
 */
export class FileStore extends MemoryStore {
  private readonly path: string;
  private readonly release: () => void;
  private file: FileHandle;
  private size: number;
  private compacted: number;
  private waiting: Waiting[] = [];
  private writing: Promise<void> | null = null;
  private isClosed = false;
  /** The files of the Blobs in `values` */
  private readonly files = new Map<unknown, string>();

  private constructor(path: string, release: () => void, file: FileHandle, size: number) {
    super();
    this.path = path;
    this.release = release;
    this.file = file;
    this.size = size;
    this.compacted = size;
  }

  static async open(name: string): Promise<FileStore> {
    const path = resolve(name);
    mkdirSync(dirname(path), { recursive: true });
    const release = lockFile(`${path}.lock`);
    try {
      const file = await open(path, "a+", 0o600);
      const { lines, size } = complete(await file.readFile());
      await file.truncate(size);
      await file.sync();
      syncFolder(path);
      const store = new FileStore(path, release, file, size);
      const blobs = new Map<string, BlobFile | undefined>();
      for (const line of lines)
        for (const [key, value, blob] of line) {
          store.put(key, value);
          blobs.set(key, blob);
        }
      for (const [key, blob] of blobs)
        if (blob !== undefined) store.put(key, await store.opened(blob).catch(() => undefined));
      store.removeOrphans();
      return store;
    } catch (error) {
      release();
      throw error;
    }
  }

  override commit(batches: readonly Batch[]): Promise<boolean[]> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ batches, resolve, reject });
      this.writing ??= this.writeAll();
    });
  }

  override async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    await this.writing;
    await this.file.close();
    this.release();
  }

  /** Write what waits, all that came meanwhile with one fsync. */
  private async writeAll(): Promise<void> {
    await null; // so that commits of the same moment share one write
    while (this.waiting.length > 0) {
      const waiting = this.waiting;
      this.waiting = [];
      const written: [string, unknown][] = [];
      const before = new Map<string, unknown>();
      // The values change before they are durable, so that a later batch sees an earlier one; a failure restores them.
      const applied = waiting.map(({ batches }) =>
        batches.map((batch) => {
          const applies = this.applies(batch);
          if (applies)
            for (const [key, value] of batch.writes) {
              if (!before.has(key)) before.set(key, this.values.get(key));
              this.put(key, value);
              written.push([key, value]);
            }
          return applies;
        }),
      );
      try {
        for (const write of written) if (write[1] instanceof Blob) write[1] = await this.saved(write[1]);
        for (const [key, value] of written) this.put(key, value);
        if (written.length > 0) await this.append(written);
      } catch (error) {
        for (const [key, value] of before) this.put(key, value);
        this.removeFiles(written);
        for (const { reject } of waiting) reject(error);
        continue;
      }
      this.removeFiles([...before, ...written]);
      waiting.forEach(({ resolve }, at) => {
        resolve(applied[at] as boolean[]);
      });
    }
    this.writing = null; // in the same turn as the last look at what waits
  }

  private async append(line: Line): Promise<void> {
    const bytes = this.encoded(line);
    try {
      let at = 0;
      while (at < bytes.length) at += (await this.file.write(bytes, at)).bytesWritten;
      await this.file.datasync();
    } catch (error) {
      // Part of the line may be there: without it the next line would be lost with it.
      await this.file.truncate(this.size);
      throw error;
    }
    this.size += bytes.length;
    if (this.size > COMPACT_BEYOND && this.size > 2 * this.compacted) await this.compact().catch(() => undefined);
  }

  private async compact(): Promise<void> {
    const bytes = this.encoded([...this.values]);
    const next = `${this.path}.new`;
    const file = await open(next, "w+", 0o600);
    try {
      await file.writeFile(bytes);
      await file.sync();
      renameSync(next, this.path);
    } catch (error) {
      await file.close();
      rmSync(next, { force: true });
      throw error;
    }
    await this.file.close();
    this.file = file;
    this.size = bytes.length;
    this.compacted = bytes.length;
    syncFolder(this.path);
  }

  private encoded(line: Line): Buffer {
    const entries = line.map(([key, value]) => {
      const file = this.files.get(value);
      if (file !== undefined) return [key, null, { file, type: (value as Blob).type }];
      return value === undefined ? [key] : [key, value];
    });
    return Buffer.from(`${JSON.stringify(entries)}\n`);
  }

  /** A copy of a Blob in a file, durably. */
  private async saved(blob: Blob): Promise<Blob> {
    const name = `${basename(this.path)}.${randomId()}.blob`;
    const path = this.pathOf(name);
    const file = await open(path, "wx", 0o600);
    try {
      await file.writeFile(blob.stream());
      await file.sync();
    } catch (error) {
      rmSync(path, { force: true });
      throw error;
    } finally {
      await file.close();
    }
    syncFolder(path);
    return this.opened({ file: name, type: blob.type });
  }

  private async opened({ file, type }: BlobFile): Promise<Blob> {
    const blob = await openAsBlob(this.pathOf(file), { type });
    this.files.set(blob, file);
    return blob;
  }

  private pathOf(file: string): string {
    return join(dirname(this.path), file);
  }

  /** Remove the files of Blobs that were written and are not held any more. */
  private removeFiles(written: Iterable<readonly [string, unknown]>): void {
    for (const [key, value] of written) {
      const file = this.files.get(value);
      if (file === undefined || this.values.get(key) === value) continue;
      this.files.delete(value);
      try {
        rmSync(this.pathOf(file), { force: true });
      } catch {} // the next `open` removes it
    }
  }

  /** Remove the files of Blobs that a crash has left. */
  private removeOrphans(): void {
    const held = new Set(this.files.values());
    const prefix = `${basename(this.path)}.`;
    for (const name of readdirSync(dirname(this.path)))
      if (name.startsWith(prefix) && name.endsWith(".blob") && !held.has(name)) rmSync(this.pathOf(name));
  }
}

/** The whole lines of a journal, and their length in bytes. */
function complete(bytes: Buffer): { lines: Line[]; size: number } {
  const lines: Line[] = [];
  let size = 0;
  for (let end = bytes.indexOf(10); end !== -1; end = bytes.indexOf(10, size)) {
    try {
      lines.push(JSON.parse(bytes.toString("utf8", size, end)) as Line);
    } catch {
      break; // cut, with garbage after it
    }
    size = end + 1;
  }
  return { lines, size };
}

/** Make the name of a new file durable, where a folder can be synced. */
function syncFolder(path: string): void {
  if (process.platform === "win32") return;
  const folder = openSync(dirname(path), "r");
  fsyncSync(folder);
  closeSync(folder);
}

const held = new Set<string>();

/** Take a lock file; returns the function that gives it back. A lock of a process that has ended is taken over. */
function lockFile(path: string): () => void {
  const mine = `${process.pid} ${startOf(process.pid)}`;
  const own = `${path}.${process.pid}`;
  if (held.has(path)) throw locked(path, mine);
  for (;;) {
    try {
      writeFileSync(own, mine, { mode: 0o600 });
      linkSync(own, path);
      held.add(path);
      return () => {
        held.delete(path);
        rmSync(path, { force: true });
      };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    } finally {
      rmSync(own, { force: true });
    }
    const holder = contentOf(path);
    if (holder !== null && holder !== mine && isAlive(holder)) throw locked(path, holder);
    // Whoever moves the stale lock away first may try again; a fresh lock that was moved instead is put back.
    const moved = `${own}.stale`;
    try {
      renameSync(path, moved);
      if (holder !== null && contentOf(moved) !== holder) linkSync(moved, path);
    } catch (error) {
      if (!["ENOENT", "EEXIST"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    }
    rmSync(moved, { force: true });
  }
}

function locked(path: string, holder: string): TidingsError {
  const pid = Number(holder.split(" ")[0]);
  return new TidingsError({
    code: "store_in_use",
    message: `Process ${pid} has this store open (${path}). Give each client a store of its own.`,
    details: { pid },
  });
}

function contentOf(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}

function isAlive(holder: string): boolean {
  const [pid, start] = holder.split(" ");
  try {
    process.kill(Number(pid), 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
  return startOf(Number(pid)) === start;
}

/**
 * When a process started, so that a later one with the same id is not taken for it; "-" where that is unknown. A
 * killed process whose parent has not noticed is "ended".
 */
function startOf(pid: number): string {
  const text = contentOf(`/proc/${pid}/stat`);
  const fields = text?.slice(text.lastIndexOf(")") + 2).split(" ");
  return fields?.[0] === "Z" ? "ended" : (fields?.[19] ?? "-");
}
