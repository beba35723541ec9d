/** The sidebar's list: which rooms it shows, in which order, and what it says of each. */
import type { Message } from "../contract.gen.ts";
import type { Presence, RoomState } from "../store.ts";
import { nameOf } from "../text.ts";
import { tailOf } from "../timeline.ts";

/** Characters of a message that are looked at for one line */
const SEEN = 300;

export type Section = "topics" | "conversations";

export type Line =
  | { readonly kind: "heading"; readonly section: Section; readonly folded: boolean }
  | { readonly kind: "room"; readonly held: RoomState };

export interface Shown {
  /** Rooms whose name has this in it; empty: all */
  readonly filter: string;
  readonly folded: ReadonlySet<Section>;
  /** The room that is open */
  readonly current: string | null;
}

/**
 * The lines of the list, in order: who spoke last comes first; rooms in which nothing was said yet come last, the newest
 * first. A folded section shows what is open or unread. While one filters, nothing is folded, and what is empty is not
 * there.
 */
export function linesOf(rooms: ReadonlyMap<string, RoomState>, { filter, folded, current }: Shown): Line[] {
  const words = filter.trim().toLocaleLowerCase();
  const found: Record<Section, RoomState[]> = { topics: [], conversations: [] };
  for (const held of rooms.values())
    if (words === "" || nameOf(held.room).toLocaleLowerCase().includes(words)) found[sectionOf(held)].push(held);
  const lines: Line[] = [];
  for (const section of ["topics", "conversations"] as const) {
    const isFolded = words === "" && folded.has(section);
    if (words !== "" && found[section].length === 0) continue;
    lines.push({ kind: "heading", section, folded: isFolded });
    for (const held of found[section].reverse().sort(later))
      if (!isFolded || held.room.unread > 0 || held.room.room_id === current) lines.push({ kind: "room", held });
  }
  return lines;
}

function sectionOf({ room }: RoomState): Section {
  return room.kind === "topic" ? "topics" : "conversations";
}

function later(one: RoomState, other: RoomState): number {
  const first = one.room.last_message?.created_at ?? "";
  const second = other.room.last_message?.created_at ?? "";
  return first === second ? 0 : first > second ? -1 : 1;
}

/** Whether a message that is held and was not read mentions the user. */
export function isMentioned({ room, segments }: RoomState, me: string): boolean {
  if (room.unread === 0) return false;
  const mentions = (message: Message) => !message.deleted && message.sender !== me && message.mentions.includes(me);
  const { messages } = tailOf(segments);
  for (let at = messages.length - 1; at >= 0; at--) {
    const message = messages[at];
    if (message === undefined || message.seq <= room.read_seq) break;
    if (mentions(message)) return true;
  }
  return room.last_message !== null && room.last_message.seq > room.read_seq && mentions(room.last_message);
}

/** Whether the other one of a direct conversation is there: as was heard since the connection was made, else as counted. */
export function isOtherOnline({ room, members }: RoomState, presence: ReadonlyMap<string, Presence>): boolean {
  if (room.kind !== "direct" || room.title === null) return false;
  return (presence.get(room.title) ?? members?.get(room.title))?.online ?? room.online >= 2;
}

/** The line under a room's name: who is typing, else what was said last. */
export function previewOf({ room, typing }: RoomState, me: string): { sender: string | null; text: string } {
  const [first, second] = typing;
  if (first !== undefined) {
    if (room.kind === "direct") return { sender: null, text: "typing…" };
    if (second === undefined) return { sender: null, text: `${first} is typing…` };
    return { sender: null, text: typing.size === 2 ? `${first} and ${second} are typing…` : "Several are typing…" };
  }
  const last = room.last_message;
  if (last === null) return { sender: null, text: "Nothing was said yet" };
  const text = last.deleted
    ? "deleted"
    : last.content
        .slice(0, SEEN)
        .replace(/(```\w*|\s)+/g, " ")
        .trim();
  if (last.sender === me) return { sender: "You", text };
  return { sender: room.kind === "direct" ? null : last.sender, text };
}
