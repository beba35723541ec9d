import type { Database } from "./database.ts";
import type { RoomState } from "./store.ts";

/** Keeps the rooms in the database as they change: only those that did, and in the order of the changes. */
export class Keeper {
  private readonly database: Pick<Database, "keep">;
  private kept: ReadonlyMap<string, RoomState>;
  private readonly reset = new Set<string>();
  private working: Promise<void> = Promise.resolve();

  /** `kept`: what the database holds. */
  constructor(database: Pick<Database, "keep">, kept: ReadonlyMap<string, RoomState>) {
    this.database = database;
    this.kept = kept;
  }

  /** The logs of these rooms were reset: they are kept however far the kept ones had come. */
  over(room_ids: Iterable<string>): void {
    for (const room_id of room_ids) this.reset.add(room_id);
  }

  /**
   * Keep the rooms as they are now; returns when that is done. What cannot be kept is tried again with the next change;
   * until then the kept cursors stay where they are, and the server sends again what came after them.
   */
  keep(now: ReadonlyMap<string, RoomState>): Promise<void> {
    this.working = this.working.then(async () => {
      const before = this.kept;
      if (before === now) return;
      const changed = [...now.values()].filter((room) => before.get(room.room.room_id) !== room);
      const gone = [...before.keys()].filter((room_id) => !now.has(room_id));
      const over = new Set(this.reset);
      try {
        await this.database.keep(changed, gone, over);
      } catch {
        return;
      }
      this.kept = now;
      for (const room_id of over) this.reset.delete(room_id);
    });
    return this.working;
  }
}
