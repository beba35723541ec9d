/**
 * What the page keeps in the library's store, beside its log: the rooms as the views show them, and drafts. So the page
 * opens without a connection as it was closed. Keys: `app/room/ROOM`, `app/cursor/ROOM` its cursor, `app/draft/ROOM`.
 */
import { IndexedDbStore, type Kept, type Log, type Store } from "@tidings/client";
import type { Member, Message, Room } from "./contract.gen.ts";
import { type Entry, eventOf, type ServerEvent } from "./events.ts";
import { begun, type Marks, type Note, type RoomState } from "./room.ts";
import { applied, initial, KEPT } from "./store.ts";
import { type Segment, tailOf, tailOnly } from "./timeline.ts";

interface KeptRoom {
  readonly room: Room;
  readonly cursor: number;
  readonly tail: Segment;
  readonly notes: readonly Note[];
  readonly marks: readonly (readonly [string, Marks])[];
  readonly members: readonly (readonly [string, Member])[] | null;
}

/** The log keeps fewer of a room. */
const MOST_ROWS = 100_000;
const ROOMS = "app/room/";
const CURSORS = "app/cursor/";
const DRAFTS = "app/draft/";

export class Cache {
  private readonly store: Store;
  private kept: ReadonlyMap<string, RoomState> = new Map();
  private readonly reset = new Set<string>();
  private working: Promise<void> = Promise.resolve();

  constructor(store: Store) {
    this.store = store;
  }

  /** The rooms as they were kept, with what the log has received since. */
  async load(log: Log, me: string): Promise<ReadonlyMap<string, RoomState>> {
    const reset = new Set(await log.unrestored());
    const rooms = new Map<string, RoomState>();
    for (const [key, value] of await this.store.range(ROOMS)) {
      const room_id = key.slice(ROOMS.length);
      if (!reset.has(room_id)) rooms.set(room_id, await caughtUp(roomOf(value as KeptRoom), log, me));
    }
    this.kept = rooms;
    return rooms;
  }

  /** The logs of these rooms were reset, so what is kept of them is replaced even if its cursor is further. */
  overwrite(room_ids: Iterable<string>): void {
    for (const room_id of room_ids) this.reset.add(room_id);
  }

  /**
   * Keep the rooms, all or none; resolves when that is done. If another tab has kept a later state of a room, that one
   * stays. After a failure, the next change tries again.
   */
  write(now: ReadonlyMap<string, RoomState>): Promise<void> {
    this.working = this.working.then(async () => {
      const before = this.kept;
      if (before === now) return;
      const over = [...this.reset];
      const gone = [...before.keys()].filter((room_id) => !now.has(room_id));
      const changed = [...now].filter(([room_id, room]) => before.get(room_id) !== room);
      try {
        await this.store.commit([
          { writes: [...over, ...gone].flatMap((room_id) => [[CURSORS + room_id, undefined] as const]) },
          { writes: gone.map((room_id) => [ROOMS + room_id, undefined] as const) },
          ...changed.map(([room_id, room]) => ({
            unless: { key: CURSORS + room_id, reaches: room.cursor + 1 },
            writes: [
              [CURSORS + room_id, room.cursor],
              [ROOMS + room_id, keptOf(room)],
            ] as const,
          })),
        ]);
      } catch {
        return;
      }
      this.kept = now;
      for (const room_id of over) this.reset.delete(room_id);
    });
    return this.working;
  }

  async draft(room_id: string): Promise<string> {
    return ((await this.store.get(DRAFTS + room_id)) as string | undefined) ?? "";
  }

  /** The rooms with a draft */
  async drafted(): Promise<ReadonlySet<string>> {
    return new Set((await this.store.range(DRAFTS)).map(([key]) => key.slice(DRAFTS.length)));
  }

  async keepDraft(room_id: string, text: string): Promise<void> {
    await this.store.commit([{ writes: [[DRAFTS + room_id, text === "" ? undefined : text]] }]);
  }
}

/** The name of a user's store. */
export function storeOf(username: string): string {
  return `web ${username}`;
}

/** Delete the rooms that are kept of a user, but neither unsent messages nor drafts. */
export async function forgetRooms(username: string): Promise<void> {
  const store = await IndexedDbStore.open(storeOf(username));
  const keys = [...(await store.range(ROOMS)), ...(await store.range(CURSORS))].map(([key]) => key);
  await store.commit([{ writes: keys.map((key) => [key, undefined]) }]);
  await store.close();
}

function keptOf({ room, cursor, segments, notes, marks, members }: RoomState): KeptRoom {
  const tail = tailOf(tailOnly(segments, KEPT));
  return { room, cursor, tail, notes, marks: [...marks], members: members === null ? null : [...members] };
}

function roomOf({ room, cursor, tail, notes, marks, members }: KeptRoom): RoomState {
  return {
    ...begun(room),
    cursor,
    segments: [tail],
    notes,
    marks: new Map(marks),
    members: members === null ? null : new Map(members),
  };
}

/** A kept room with what the log has received since: the page may have ended before it kept that. */
async function caughtUp(kept: RoomState, log: Log, me: string): Promise<RoomState> {
  const { room_id, read_seq, unread } = kept.room;
  const cursor = log.cursor(room_id) ?? 0;
  if (cursor <= kept.cursor) return kept;
  const floor = log.floor(room_id) ?? 0;
  const rows = new Map((await log.after(room_id, floor, MOST_ROWS)).map((row) => [row.data.seq ?? 0, row]));
  const events: ServerEvent[] = [];
  for (let seq = Math.max(kept.cursor, floor) + 1; seq <= cursor; seq++)
    events.push(eventAt(room_id, seq, rows.get(seq)));
  const held = applied({ ...initial(me), rooms: new Map([[room_id, kept]]) }, events).rooms.get(room_id) ?? kept;
  // An entry without a row has changed a message. The rows have it as it is now; messages before them are dropped.
  const changed = events.length > 0 && !events.every(({ data }) => rows.has((data as Entry).seq));
  const segments = changed ? held.segments.map((segment) => asNow(segment, floor, rows)) : held.segments;
  // Up to where the user has read, and how many are unread, the next snapshot says.
  return { ...held, segments, room: { ...held.room, read_seq, unread } };
}

function eventAt(room_id: string, seq: number, row: Kept | undefined): ServerEvent {
  const event =
    row?.is === "message" ? eventOf("message", row.data) : row?.is === "other" ? eventOf(row.name, row.data) : null;
  return event ?? { type: "other_entry", data: { room_id, seq } };
}

function asNow({ from, to, messages }: Segment, floor: number, rows: ReadonlyMap<number, Kept>): Segment {
  const now = (message: Message): Message => {
    const row = rows.get(message.seq);
    return row?.is === "message" ? row.data : message;
  };
  return { from: Math.max(from, floor + 1), to, messages: messages.filter(({ seq }) => seq > floor).map(now) };
}
