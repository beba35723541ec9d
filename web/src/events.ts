import type { Events } from "./contract.gen.ts";

/** An event of the server, by its name on the wire. */
export type ServerEvent =
  | { [K in keyof Events]: { readonly type: K; readonly data: Events[K] } }[keyof Events]
  | { readonly type: "other_entry"; readonly data: Entry };

/** An entry of a room's log that this page does not show, such as an event that an application published. */
export interface Entry {
  readonly room_id: string;
  readonly seq: number;
}

/** An event by its name; null: one that is not shown and moves no cursor. */
export function eventOf(name: string, data: unknown): ServerEvent | null {
  if (Object.hasOwn(EVENTS, name)) return { type: name, data } as ServerEvent;
  // Of an application, or of a newer server: it still moves the cursor.
  const { room_id, seq } = (data ?? {}) as Partial<Entry>;
  return typeof room_id === "string" && typeof seq === "number"
    ? { type: "other_entry", data: { room_id, seq } }
    : null;
}

/** Every event. The compiler asks for those that are missing. */
const EVENTS: { readonly [K in keyof Events]: true } = {
  ready: true,
  message: true,
  message_edited: true,
  message_append: true,
  message_finished: true,
  message_deleted: true,
  reaction: true,
  member: true,
  room_added: true,
  room_removed: true,
  room_changed: true,
  typing: true,
  preferences: true,
  thread: true,
  presence: true,
  profile: true,
  receipt: true,
  reported: true,
  closing: true,
};
