/**
 * Read markers. While the user looks at the end of a room, messages are read as they arrive. The state changes
 * immediately, the server gets a marker now and then, and again after a reconnect if it did not get the last one.
 */
import { TidingsError } from "@tidings/client";
import { applied, type Change, type State } from "./store.ts";

export interface ReadingOptions {
  /** Request an action. Raises a `TidingsError`. */
  ask(room_id: string, seq: number): Promise<unknown>;
  /** Whether there is a connection. */
  ready(): boolean;
  /** Call after a delay (ms). */
  later(work: () => void, after: number): void;
}

/** The server gets markers no more often than this (ms). */
const TELL_EVERY = 250;

export class Reading {
  private readonly options: ReadingOptions;
  private looked: string | null = null;
  /** Whether that began since `seen` was last called: a room that is marked as unread meanwhile stays so. */
  private began = false;
  private readonly untold = new Map<string, number>();
  private telling = false;

  constructor(options: ReadingOptions) {
    this.options = options;
  }

  /** The room whose end the user looks at; null: none. */
  look(room_id: string | null): void {
    this.began ||= room_id !== this.looked;
    this.looked = room_id;
  }

  /** The state with that room read up to its cursor. */
  seen(state: State): State {
    const held = this.looked === null ? undefined : state.rooms.get(this.looked);
    if (held === undefined) return state;
    const { room, cursor } = held;
    const began = this.began;
    this.began = false;
    if (!began && room.preferences?.unread_from != null) return state;
    if (cursor < room.last_seq || (cursor <= room.read_seq && room.unread === 0)) return state;
    this.untold.set(room.room_id, cursor);
    this.tell();
    return applied(state, [{ type: "read", room_id: room.room_id, seq: cursor, unread: 0 }]);
  }

  /** The state with a room read up to a seq. */
  readTo(state: State, room_id: string, seq: number): State {
    const room = state.rooms.get(room_id)?.room;
    if (room === undefined || seq <= room.read_seq || room.unread === 0) return state;
    this.untold.set(room_id, seq);
    this.tell();
    return applied(state, [{ type: "read", room_id, seq, unread: Number.POSITIVE_INFINITY }]);
  }

  /** The state with every room read up to its cursor. */
  readAll(state: State): State {
    const changes: Change[] = [];
    for (const { room, cursor } of state.rooms.values()) {
      if (cursor < room.last_seq || room.unread === 0) continue;
      this.untold.set(room.room_id, cursor);
      changes.push({ type: "read", room_id: room.room_id, seq: cursor, unread: 0 });
    }
    this.tell();
    return applied(state, changes);
  }

  /** The user takes back that a room is read: do not tell the server, if it was not told. */
  forget(room_id: string): void {
    this.untold.delete(room_id);
  }

  /** There is a connection, or a new marker: send the markers. */
  tell(): void {
    if (this.telling || this.untold.size === 0) return;
    this.telling = true;
    this.options.later(() => void this.ask(), TELL_EVERY);
  }

  private async ask(): Promise<void> {
    let failed = false;
    for (const [room_id, seq] of this.options.ready() ? [...this.untold] : []) {
      try {
        await this.options.ask(room_id, seq);
      } catch (error) {
        if (!(error instanceof TidingsError)) throw error;
        if (error.retryable) {
          failed = true;
          continue;
        }
      }
      if (this.untold.get(room_id) === seq) this.untold.delete(room_id);
    }
    this.telling = false;
    if (!failed && this.options.ready()) this.tell();
  }
}
