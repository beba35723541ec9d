/**
 * A user's data on this device, in IndexedDB: rooms with their cursor and newest messages, the outbox, and drafts.
 * A room is one record, so its cursor and its messages always belong together.
 */
import { type DBSchema, deleteDB, type IDBPDatabase, openDB } from "idb";
import type { Member, Room } from "./contract.gen.ts";
import type { OutboxStore, Unsent } from "./outbox.ts";
import { begun, KEPT, type Marks, type Note, type RoomState } from "./store.ts";
import type { Segment } from "./timeline.ts";
import { tailOf, tailOnly } from "./timeline.ts";

interface KeptRoom {
  readonly room_id: string;
  readonly room: Room;
  readonly cursor: number;
  readonly tail: Segment;
  /** undefined: stored by an earlier build of the page */
  readonly notes?: readonly Note[];
  readonly marks: ReadonlyMap<string, Marks>;
  readonly members: ReadonlyMap<string, Member> | null;
}

interface Schema extends DBSchema {
  rooms: { key: string; value: KeptRoom };
  outbox: { key: number; value: Unsent; indexes: { client_id: string } };
  drafts: { key: string; value: string };
}

const VERSION = 1;

export class Database {
  private readonly db: IDBPDatabase<Schema>;
  readonly outbox: OutboxStore;

  private constructor(db: IDBPDatabase<Schema>) {
    this.db = db;
    this.outbox = new KeptOutbox(db);
  }

  static async open(username: string): Promise<Database> {
    const db = await openDB<Schema>(nameOf(username), VERSION, {
      upgrade(db) {
        db.createObjectStore("rooms", { keyPath: "room_id" });
        db.createObjectStore("outbox", { autoIncrement: true }).createIndex("client_id", "client_id", {
          unique: true,
        });
        db.createObjectStore("drafts");
      },
      blocking: (_current, _blocked, event) => (event.target as IDBDatabase).close(),
    });
    return new Database(db);
  }

  /** Delete all data of a user. */
  static async forget(username: string): Promise<void> {
    await deleteDB(nameOf(username));
  }

  /** Delete a user's rooms, but not the outbox and the drafts. */
  static async forgetRooms(username: string): Promise<void> {
    const database = await Database.open(username);
    await database.db.clear("rooms");
    database.close();
  }

  close(): void {
    this.db.close();
  }

  async rooms(): Promise<RoomState[]> {
    const kept = await this.db.getAll("rooms");
    return kept.map(({ room, cursor, tail, notes, marks, members }) => ({
      ...begun(room),
      cursor,
      segments: [tail],
      notes: notes ?? [],
      marks,
      members,
    }));
  }

  /**
   * Store rooms, all or none. If another tab has stored a later state of a room, that one stays; but not for the rooms
   * in `over`, whose log was reset.
   */
  async keep(rooms: Iterable<RoomState>, gone: Iterable<string>, over: ReadonlySet<string>): Promise<void> {
    const work = this.db.transaction("rooms", "readwrite");
    const store = work.objectStore("rooms");
    try {
      for (const { room, cursor, segments, notes, marks, members } of rooms) {
        const { room_id } = room;
        const kept = over.has(room_id) ? undefined : await store.get(room_id);
        if (kept !== undefined && kept.cursor > cursor) continue;
        const tail = tailOf(tailOnly(segments, KEPT));
        await store.put({ room_id, room, cursor, tail, notes, marks, members });
      }
      for (const room_id of gone) await store.delete(room_id);
    } catch (error) {
      work.done.catch(() => undefined); // the error that follows from this one
      work.abort();
      throw error;
    }
    await work.done;
  }

  async draft(room_id: string): Promise<string> {
    return (await this.db.get("drafts", room_id)) ?? "";
  }

  async keepDraft(room_id: string, text: string): Promise<void> {
    if (text === "") await this.db.delete("drafts", room_id);
    else await this.db.put("drafts", text, room_id);
  }
}

class KeptOutbox implements OutboxStore {
  private readonly db: IDBPDatabase<Schema>;

  constructor(db: IDBPDatabase<Schema>) {
    this.db = db;
  }

  all(): Promise<Unsent[]> {
    return this.db.getAll("outbox");
  }

  async add(unsent: Unsent): Promise<void> {
    const work = this.db.transaction("outbox", "readwrite", { durability: "strict" });
    await work.store.add(unsent);
    await work.done;
  }

  async update(unsent: Unsent): Promise<void> {
    const work = this.db.transaction("outbox", "readwrite");
    const key = await work.store.index("client_id").getKey(unsent.client_id);
    if (key !== undefined) await work.store.put(unsent, key);
    await work.done;
  }

  async remove(client_id: string): Promise<void> {
    const work = this.db.transaction("outbox", "readwrite");
    const key = await work.store.index("client_id").getKey(client_id);
    if (key !== undefined) await work.store.delete(key);
    await work.done;
  }
}

function nameOf(username: string): string {
  return `tidings ${username}`;
}
