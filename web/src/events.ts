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

export function isEntry(data: unknown): data is Entry {
  return (
    typeof data === "object" &&
    data !== null &&
    "room_id" in data &&
    typeof data.room_id === "string" &&
    "seq" in data &&
    typeof data.seq === "number"
  );
}

/** Every event. The compiler asks for those that are missing. */
export const EVENTS: { readonly [K in keyof Events]: true } = {
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
  presence: true,
  receipt: true,
  closing: true,
};
