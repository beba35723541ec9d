/**
 * What one has read: while somebody looks at the end of a room, what comes into it is read as it comes. It is so here at
 * once, and told to the server now and then; what it has not heard of is told again with the next connection.
 */
import { Refused } from "./session.ts";
import { applied, type State } from "./store.ts";

export interface ReadingOptions {
  /** Ask the server; raises `Refused`. */
  ask(room_id: string, seq: number): Promise<unknown>;
  /** Whether there is a connection. */
  ready(): boolean;
  /** Call after a time (ms). */
  later(work: () => void, after: number): void;
}

/** However fast messages come, it is not told more often than this. */
const TELL_EVERY = 250;

export class Reading {
  private readonly options: ReadingOptions;
  private looked: string | null = null;
  private readonly untold = new Map<string, number>();
  private telling = false;

  constructor(options: ReadingOptions) {
    this.options = options;
  }

  /** The room whose end somebody looks at; null: nobody does. */
  look(room_id: string | null): void {
    this.looked = room_id;
  }

  /** The state with that room read, as far as all of it has come. */
  seen(state: State): State {
    const held = this.looked === null ? undefined : state.rooms.get(this.looked);
    if (held === undefined) return state;
    const { room, cursor } = held;
    if (cursor < room.last_seq || (cursor <= room.read_seq && room.unread === 0)) return state;
    this.untold.set(room.room_id, cursor);
    this.tell();
    return applied(state, [{ type: "read", room_id: room.room_id, seq: cursor, unread: 0 }]);
  }

  /** There is a connection, or something to tell. */
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
        if (!(error instanceof Refused)) throw error;
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
