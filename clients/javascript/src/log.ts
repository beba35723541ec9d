/**
 * What a client holds of the rooms' logs: a cursor for each room, and the newest entries as rows.
 *
 * A cursor moves in the transaction that stores the entry, and an entry that is not beyond it is dropped. Rows hold
 * messages as they are now: a change of a message replaces its row. Keys: `c/ROOM` the cursor, `f/ROOM` the floor (all
 * later entries are kept), `r/ROOM/SEQ` a row, `p/ROOM/CONSUMER` how far a consumer has
 * come, `x/ROOM` that the room was reset and its messages are to be read again.
 */
import type { History } from "./contract.gen.ts";
import { type Batch, type Store, sortable } from "./store.ts";
import type { JsonValue, Message, Published } from "./types.ts";

/** An entry of a room's log, as an event brings it. */
export interface Entry {
  readonly room_id: string;
  readonly seq: number;
}

/** A stored entry; consumers get messages and an application's events. A change of a message is in its message. */
export type Kept =
  | { readonly is: "message"; readonly data: Message }
  | { readonly is: "event"; readonly data: Published<JsonValue> }
  | { readonly is: "other"; readonly name: string; readonly data: Entry };

/** Rows kept of a room, beside those that a consumer has not got yet. */
export const KEPT = 1000;
const TRIM_EVERY = 200;

export class Log {
  private readonly store: Store;
  /** How far this client has processed each room. Another tab may have stored more. */
  readonly cursors = new Map<string, number>();
  private readonly floors = new Map<string, number>();
  private readonly untrimmed = new Map<string, number>();

  constructor(store: Store) {
    this.store = store;
  }

  async load(): Promise<void> {
    for (const [key, value] of await this.store.range("c/")) this.cursors.set(key.slice(2), value as number);
    for (const [key, value] of await this.store.range("f/")) this.floors.set(key.slice(2), value as number);
  }

  /** Entries up to this seq are not kept; undefined: nothing is known of the room. */
  floor(room_id: string): number | undefined {
    return this.floors.get(room_id);
  }

  cursor(room_id: string): number | undefined {
    return this.cursors.get(room_id);
  }

  /** Rooms of which nothing is known begin at these cursors. */
  async begin(cursors: Readonly<Record<string, number>>): Promise<void> {
    const fresh = Object.entries(cursors).filter(([room_id]) => !this.cursors.has(room_id));
    if (fresh.length === 0) return;
    await this.store.commit(fresh.map(([room_id, seq]) => beginning(room_id, seq)));
    for (const [room_id, seq] of fresh) {
      this.cursors.set(room_id, seq);
      this.floors.set(room_id, seq);
    }
  }

  /** Store entries in order, durably. Returns those that are no repeats. */
  async receive(arrived: readonly (readonly [name: string, data: Entry])[]): Promise<Set<Entry>> {
    const fresh = new Set<Entry>();
    const begins: Batch[] = [];
    const cursors = new Map<string, number>();
    const floors = new Map<string, number>();
    const rows = new Map<string, [key: string, row: Kept][]>();
    for (const [name, data] of arrived) {
      const { room_id, seq } = data;
      const cursor = cursors.get(room_id) ?? this.cursors.get(room_id);
      if (cursor !== undefined && seq <= cursor) continue;
      if (cursor === undefined) {
        // Where the room begins, first: from now on the server may count the entry as received.
        begins.push(beginning(room_id, seq - 1));
        floors.set(room_id, seq - 1);
      }
      fresh.add(data);
      cursors.set(room_id, seq);
      const row = rowOf(name, data);
      const floor = floors.get(room_id) ?? this.floors.get(room_id) ?? 0;
      const at = row.data.seq ?? 0;
      const kept = rows.get(room_id) ?? [];
      if (at > floor) kept.push([keyOf(room_id, at), row]);
      rows.set(room_id, kept);
    }
    const batches = [...cursors].map(([room_id, seq]): Batch => {
      const kept = rows.get(room_id) ?? [];
      this.untrimmed.set(room_id, (this.untrimmed.get(room_id) ?? 0) + kept.length);
      return { unless: { key: `c/${room_id}`, reaches: seq }, writes: [...kept, [`c/${room_id}`, seq]] };
    });
    if (batches.length > 0) await this.store.commit([...begins, ...batches]);
    for (const [room_id, seq] of cursors) this.cursors.set(room_id, seq);
    for (const [room_id, seq] of floors) this.floors.set(room_id, seq);
    return fresh;
  }

  /** Rows of a room after a seq, in order. */
  async after(room_id: string, seq: number, limit: number): Promise<Kept[]> {
    const rows = await this.store.range(`r/${room_id}/`, { above: keyOf(room_id, seq), limit });
    return rows.map(([, row]) => row as Kept);
  }

  /** The last rows of a room, in order. */
  async newest(room_id: string, limit: number): Promise<Kept[]> {
    const rows = await this.store.range(`r/${room_id}/`, { limit, descending: true });
    return rows.map(([, row]) => row as Kept).reverse();
  }

  async position(room_id: string, consumer: string): Promise<number | undefined> {
    return (await this.store.get(positionOf(room_id, consumer))) as number | undefined;
  }

  async move(room_id: string, consumer: string, seq: number): Promise<void> {
    const key = positionOf(room_id, consumer);
    await this.store.commit([{ unless: { key, reaches: seq }, writes: [[key, seq]] }]);
  }

  /** Delete old rows of the rooms that have grown. */
  async trim(): Promise<void> {
    for (const [room_id, count] of this.untrimmed) {
      if (count < TRIM_EVERY) continue;
      this.untrimmed.set(room_id, 0);
      const rows = await this.store.range(`r/${room_id}/`);
      const positions = await this.store.range(`p/${room_id}/`);
      const oldest = rows.at(-KEPT);
      if (oldest === undefined) continue;
      const reached = Math.min(seqOf(oldest[0]) - 1, ...positions.map(([, seq]) => seq as number));
      const gone = rows.filter(([key]) => seqOf(key) <= reached);
      const last = gone.at(-1);
      if (last === undefined) continue;
      const floor = seqOf(last[0]);
      await this.store.commit([
        { writes: [...gone.map(([key]) => [key, undefined] as const), [`f/${room_id}`, floor]] },
      ]);
      this.floors.set(room_id, floor);
    }
  }

  /** The user has left a room, or lost it. Its rows stay for consumers. */
  async leave(room_id: string): Promise<void> {
    await this.store.commit([{ writes: [[`c/${room_id}`, undefined]] }]);
    this.cursors.delete(room_id);
  }

  /** Rooms whose log was reset, and which were not restored yet. */
  async unrestored(): Promise<string[]> {
    return (await this.store.range("x/")).map(([key]) => key.slice(2));
  }

  /** The logs of these rooms were reset: drop what is held of them. Positions of consumers stay until `restore`. */
  async reset(room_ids: Iterable<string>): Promise<void> {
    const batches: Batch[] = [];
    for (const room_id of room_ids) {
      const rows = await this.store.range(`r/${room_id}/`);
      const keys = [`c/${room_id}`, `f/${room_id}`, ...rows.map(([key]) => key)];
      const ids = rows.flatMap(([key, value]) => {
        const row = value as Kept;
        return row.is === "message" ? [[seqOf(key), row.data.id]] : [];
      });
      batches.push({ writes: [...keys.map((key) => [key, undefined] as const), [`x/${room_id}`, ids]] });
      this.cursors.delete(room_id);
      this.floors.delete(room_id);
    }
    await this.store.commit(batches);
  }

  /** Begin a room again with its newest messages, after its log was reset. */
  async restore(room_id: string, { messages, has_more }: History): Promise<void> {
    const first = messages[0];
    const last = messages.at(-1)?.seq ?? 0;
    const floor = has_more && first !== undefined ? first.seq - 1 : 0;
    const cursor = Math.max(last, this.cursors.get(room_id) ?? 0);
    const writes: [string, unknown][] = [
      [`f/${room_id}`, floor],
      [`x/${room_id}`, undefined],
    ];
    for (const message of messages) {
      const key = keyOf(room_id, message.seq);
      // An event that came meanwhile is newer than the page.
      if ((await this.store.get(key)) === undefined) writes.push([key, { is: "message", data: message }]);
    }
    const same = sameUpTo(((await this.store.get(`x/${room_id}`)) ?? []) as Known[], messages);
    for (const [key, position] of await this.store.range(`p/${room_id}/`))
      if ((position as number) > same) writes.push([key, same]);
    const key = `c/${room_id}`;
    await this.store.commit([{ writes }, { unless: { key, reaches: cursor }, writes: [[key, cursor]] }]);
    this.floors.set(room_id, floor);
    this.cursors.set(room_id, Math.max(cursor, this.cursors.get(room_id) ?? 0));
  }
}

type Known = readonly [seq: number, id: string];

/**
 * Up to where a log is the same as before its reset. A restored log gives the seqs after its backup to other messages,
 * which are new to a consumer. Infinity: nothing says that it differs.
 */
function sameUpTo(known: readonly Known[], messages: readonly Message[]): number {
  const ids = new Map(messages.map(({ seq, id }) => [seq, id]));
  const first = messages[0]?.seq ?? 1;
  let same = first - 1;
  for (const [seq, id] of known) {
    if (seq < first) continue;
    if (ids.get(seq) !== id) return same;
    same = seq;
  }
  return Number.POSITIVE_INFINITY;
}

/** Makes a room begin after a seq, unless it has begun. */
function beginning(room_id: string, seq: number): Batch {
  const cursor = `c/${room_id}`;
  return {
    unless: { key: cursor, reaches: 0 },
    writes: [
      [cursor, seq],
      [`f/${room_id}`, seq],
    ],
  };
}

/** What an entry puts into a row. */
export function rowOf(name: string, data: Entry): Kept {
  if (name === "message") return { is: "message", data: data as Message };
  if ("message" in data && typeof data.message === "object" && !("event" in data))
    return { is: "message", data: data.message as Message };
  if ("event" in data && data.event === name) return { is: "event", data: data as Published<JsonValue> };
  return { is: "other", name, data };
}

export function isEntry(data: unknown): data is Entry {
  const entry = data as Partial<Entry> | null | undefined;
  return typeof entry?.room_id === "string" && typeof entry.seq === "number";
}

function keyOf(room_id: string, seq: number): string {
  return `r/${room_id}/${sortable(seq)}`;
}

function seqOf(key: string): number {
  return Number(key.slice(key.lastIndexOf("/") + 1));
}

function positionOf(room_id: string, consumer: string): string {
  return `p/${room_id}/${consumer}`;
}
