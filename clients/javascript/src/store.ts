/**
 * Where a client keeps its data: a map from strings to values, sorted by key, with atomic and durable commits. A value
 * is JSON, or under a key that begins with `b/` a Blob, which may be large: it is read by `get` alone.
 * Everything else (cursors, rows, outbox) is built on it, so another kind of storage needs only these methods.
 * Keys that begin with `app/` are left to the application.
 */

/** Writes that are applied all or none. `undefined` deletes the key. */
export interface Batch {
  /** Skip the batch if this key holds a number that reaches `reaches`. */
  readonly unless?: { readonly key: string; readonly reaches: number };
  readonly writes: readonly (readonly [key: string, value: unknown])[];
}

export interface Range {
  /** Only keys greater than this one */
  readonly above?: string;
  readonly limit?: number;
  /** The last keys instead of the first, in descending order */
  readonly descending?: boolean;
}

export type Row = readonly [key: string, value: unknown];

export interface Store {
  /**
   * Apply batches in order, all in one transaction. They are durable when it resolves, which says of each whether it
   * was applied. Rejects if they cannot be written; then none was.
   */
  commit(batches: readonly Batch[]): Promise<boolean[]>;
  get(key: string): Promise<unknown>;
  /** The keys that begin with `prefix`, with their values. */
  range(prefix: string, range?: Range): Promise<Row[]>;
  /** Run work while nobody else who uses this store, in any tab, holds the lock of that name. Not reentrant. */
  lock<T>(name: string, work: () => Promise<T>): Promise<T>;
  /** Send a message to the other tabs that use this store. */
  post(message: unknown): void;
  /** Call `heard` with each message of another tab. Returns a function that stops it. */
  watch(heard: (message: unknown) => void): () => void;
  close(): Promise<void>;
}

/** A store that ends with the process. */
export class MemoryStore implements Store {
  protected readonly values = new Map<string, unknown>();
  private readonly keys: string[] = [];
  private readonly locks = new Mutexes();

  async commit(batches: readonly Batch[]): Promise<boolean[]> {
    return batches.map((batch) => {
      const applies = this.applies(batch);
      if (applies) for (const [key, value] of batch.writes) this.put(key, value);
      return applies;
    });
  }

  async get(key: string): Promise<unknown> {
    return this.values.get(key);
  }

  async range(prefix: string, { above, limit = Number.POSITIVE_INFINITY, descending = false }: Range = {}) {
    const from = above !== undefined && above >= prefix ? this.place(above, true) : this.place(prefix);
    const to = this.place(`${prefix}\uffff`);
    const keys = descending
      ? this.keys.slice(Math.max(from, to - limit), to).reverse()
      : this.keys.slice(from, Math.min(to, from + limit));
    return keys.map((key): Row => [key, this.values.get(key)]);
  }

  lock<T>(name: string, work: () => Promise<T>): Promise<T> {
    return this.locks.run(name, work);
  }

  post(_message: unknown): void {}

  watch(_heard: (message: unknown) => void): () => void {
    return () => undefined;
  }

  async close(): Promise<void> {}

  protected applies({ unless }: Batch): boolean {
    return unless === undefined || !reaches(this.values.get(unless.key), unless.reaches);
  }

  protected put(key: string, value: unknown): void {
    const known = this.values.has(key);
    if (value === undefined) {
      if (known) this.keys.splice(this.place(key), 1);
      this.values.delete(key);
      return;
    }
    if (!known) this.keys.splice(this.place(key), 0, key);
    this.values.set(key, value);
  }

  /** The index of the first key that is not less; with `beyond`, that is greater. */
  private place(key: string, beyond = false): number {
    let low = 0;
    let high = this.keys.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const one = this.keys[middle] as string;
      if (one < key || (beyond && one === key)) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

export function reaches(value: unknown, number: number): boolean {
  return typeof value === "number" && value >= number;
}

/** Locks by name within one process. Waiting work runs in order. */
export class Mutexes {
  private readonly last = new Map<string, Promise<unknown>>();

  run<T>(name: string, work: () => Promise<T>): Promise<T> {
    const running = (this.last.get(name) ?? Promise.resolve()).then(work, work);
    const settled = running.then(
      () => undefined,
      () => undefined,
    );
    this.last.set(name, settled);
    return running;
  }
}

/** A number as a key that sorts like the number. */
export function sortable(number: number): string {
  return String(number).padStart(16, "0");
}
