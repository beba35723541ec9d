import type { Database } from "./database.ts";
import type { RoomState } from "./store.ts";

/** Stores changed rooms in the database, in the order of their changes. */
export class RoomWriter {
  private readonly database: Pick<Database, "keep">;
  private kept: ReadonlyMap<string, RoomState>;
  private readonly reset = new Set<string>();
  private working: Promise<void> = Promise.resolve();

  /** `kept`: the rooms in the database. */
  constructor(database: Pick<Database, "keep">, kept: ReadonlyMap<string, RoomState>) {
    this.database = database;
    this.kept = kept;
  }

  /** The logs of these rooms were reset, so their stored state is replaced even if its cursor is further. */
  overwrite(room_ids: Iterable<string>): void {
    for (const room_id of room_ids) this.reset.add(room_id);
  }

  /**
   * Store the rooms; returns when that is done. After a failure, the next change tries again.
   * Until then the stored cursors do not move, so the server would send the entries after them again.
   */
  write(now: ReadonlyMap<string, RoomState>): Promise<void> {
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
