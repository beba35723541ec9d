import { type Batch, Mutexes, type Range, type Row, reaches, type Store } from "./store.ts";

const ROWS = "rows";
/** For pages without Web Locks (plain HTTP): there, only this tab is kept in order. */
const here = new Mutexes();

/** A store in the browser. All tabs that open the same name share it, and with it one outbox. */
export class IndexedDbStore implements Store {
  private readonly db: IDBDatabase;
  private readonly channel: BroadcastChannel;
  private readonly name: string;

  private constructor(db: IDBDatabase, name: string) {
    this.db = db;
    this.name = name;
    this.channel = new BroadcastChannel(name);
    // Let another tab delete or upgrade the database.
    db.onversionchange = () => db.close();
  }

  static async open(name: string): Promise<IndexedDbStore> {
    const full = databaseOf(name);
    const request = indexedDB.open(full, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(ROWS);
    return new IndexedDbStore(await result(request), full);
  }

  /** Delete a store, for example when the user signs out. Close its clients first, in this tab. */
  static async delete(name: string): Promise<void> {
    await result(indexedDB.deleteDatabase(databaseOf(name)));
  }

  async commit(batches: readonly Batch[]): Promise<boolean[]> {
    const work = this.db.transaction(ROWS, "readwrite", { durability: "strict" });
    const done = new Promise<void>((resolve, reject) => {
      work.oncomplete = () => resolve();
      work.onabort = () => reject(work.error);
    });
    const rows = work.objectStore(ROWS);
    const applied: boolean[] = [];
    try {
      for (const { unless, writes } of batches) {
        const skip = unless !== undefined && reaches(await result(rows.get(unless.key)), unless.reaches);
        applied.push(!skip);
        if (skip) continue;
        for (const [key, value] of writes) value === undefined ? rows.delete(key) : rows.put(value, key);
      }
    } catch (error) {
      done.catch(() => undefined); // the error that follows from this one
      if (work.error === null) work.abort();
      throw error;
    }
    await done;
    return applied;
  }

  get(key: string): Promise<unknown> {
    return result(this.rows().get(key));
  }

  async range(prefix: string, { above, limit, descending = false }: Range = {}): Promise<Row[]> {
    const from = above !== undefined && above >= prefix ? above : prefix;
    const end = `${prefix}\uffff`;
    if (from > end) return [];
    const range = IDBKeyRange.bound(from, end, from === above);
    const rows = this.rows();
    if (!descending) {
      const [keys, values] = await Promise.all([
        result(rows.getAllKeys(range, limit)),
        result(rows.getAll(range, limit)),
      ]);
      return keys.map((key, at): Row => [key as string, values[at]]);
    }
    const found: Row[] = [];
    const request = rows.openCursor(range, "prev");
    for (let cursor = await result(request); cursor !== null; cursor = await result(request)) {
      found.push([cursor.key as string, cursor.value]);
      if (found.length === limit) break;
      cursor.continue();
    }
    return found;
  }

  lock<T>(name: string, work: () => Promise<T>): Promise<T> {
    const full = `${this.name} ${name}`;
    const locks = typeof navigator === "undefined" ? undefined : navigator.locks;
    return locks === undefined ? here.run(full, work) : (locks.request(full, work) as Promise<T>);
  }

  post(message: unknown): void {
    this.channel.postMessage(message);
  }

  watch(heard: (message: unknown) => void): () => void {
    const listener = (event: MessageEvent) => heard(event.data);
    this.channel.addEventListener("message", listener);
    return () => this.channel.removeEventListener("message", listener);
  }

  async close(): Promise<void> {
    this.channel.close();
    this.db.close();
  }

  private rows(): IDBObjectStore {
    return this.db.transaction(ROWS).objectStore(ROWS);
  }
}

function databaseOf(name: string): string {
  return `tidings ${name}`;
}

function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
