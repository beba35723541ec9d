/** The lines of the sidebar: which rooms, in which order, with which text. */
import type { Message } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import type { Presence, RoomState, State } from "../store.ts";
import { nameOf, summaryOf } from "../text.ts";
import { tailOf } from "../timeline.ts";

/** Characters of a message that fit on one line */
const SEEN = 120;

/** In the order of the sidebar; the user's own are between the first two and the others. */
export const SECTIONS = ["unread", "favourites", "direct", "topics"] as const;

/** One of these, or, behind `own `, the name that the user has given to a section. */
export type Section = (typeof SECTIONS)[number] | `own ${string}`;

/** These are also there when they are empty: new rooms are made in them. */
const ALWAYS: ReadonlySet<Section> = new Set<Section>(["direct", "topics"]);

export type Line =
  | { readonly kind: "heading"; readonly section: Section; readonly folded: boolean }
  | { readonly kind: "room"; readonly held: RoomState };

export interface Shown {
  /** Only rooms whose name contains this; empty: all */
  readonly filter: string;
  readonly folded: ReadonlySet<string>;
  /** The room that is open */
  readonly current: string | null;
  readonly me: string;
}

/**
 * The lines in order: the room with the newest message first; rooms without messages last, the newest first; unread
 * rooms for the user personally above all. A folded section shows only its open room. A filter unfolds all sections.
 */
export function linesOf(rooms: ReadonlyMap<string, RoomState>, shown: Shown): Line[] {
  const { filter, folded, current, me } = shown;
  const words = filter.trim().toLocaleLowerCase();
  const found = new Map<Section, RoomState[]>(SECTIONS.map((section) => [section, []]));
  for (const held of rooms.values()) {
    const name = `${nameOf(held.room, held.members, me)} ${held.room.kind === "direct" ? held.room.title : ""}`;
    if (words !== "" && !name.toLocaleLowerCase().includes(words)) continue;
    const section = sectionOf(held, shown);
    found.set(section, [...(found.get(section) ?? []), held]);
  }
  const own = [...found.keys()].slice(SECTIONS.length).sort((one, other) => one.localeCompare(other));
  const lines: Line[] = [];
  for (const section of [...SECTIONS.slice(0, 2), ...own, ...SECTIONS.slice(2)]) {
    const isFolded = words === "" && folded.has(section);
    const held = (found.get(section) ?? []).reverse().sort(later);
    if (held.length === 0 && (words !== "" || !ALWAYS.has(section))) continue;
    if (section === "unread") held.sort((one, other) => Number(isPersonal(other, me)) - Number(isPersonal(one, me)));
    lines.push({ kind: "heading", section, folded: isFolded });
    for (const one of held) if (!isFolded || one.room.room_id === current) lines.push({ kind: "room", held: one });
  }
  return lines;
}

/** The room to open first: the last one, else the first unread one; null: neither is there. */
export function firstRoom({ rooms, me }: State, last: string | null): string | null {
  if (last !== null && rooms.has(last)) return last;
  for (const line of linesOf(rooms, { filter: "", folded: new Set(), current: null, me }))
    if (line.kind === "room" && counts(line.held, me)) return line.held.room.room_id;
  return null;
}

/** Unread rooms outside the visible part. */
export interface OutOfSight {
  readonly count: number;
  /** How many of them are direct conversations or mention the user */
  readonly personal: number;
  /** The line of the nearest of these; without one, of the nearest unread room */
  readonly nearest: number;
}

/** The unread rooms above `first` and below `last`, the first and the last visible line. */
export function unreadOutOfSight(
  lines: readonly Line[],
  me: string,
  first: number,
  last: number,
): { above: OutOfSight | null; below: OutOfSight | null } {
  const unread = lines.flatMap((line, at) =>
    line.kind === "room" && counts(line.held, me) ? [{ at, personal: isPersonal(line.held, me) }] : [],
  );
  const counted = (hidden: typeof unread): OutOfSight | null => {
    const personal = hidden.filter((one) => one.personal);
    const nearest = personal[0] ?? hidden[0];
    return nearest === undefined ? null : { count: hidden.length, personal: personal.length, nearest: nearest.at };
  };
  return {
    above: counted(unread.filter(({ at }) => at < first).reverse()),
    below: counted(unread.filter(({ at }) => at > last)),
  };
}

function sectionOf(held: RoomState, { current, me }: Shown): Section {
  const { room } = held;
  if (room.room_id !== current && counts(held, me)) return "unread";
  if (room.preferences?.favourite) return "favourites";
  if (room.preferences?.section) return `own ${room.preferences.section}`;
  return room.kind === "topic" ? "topics" : "direct";
}

/** Whether the room asks for attention: one of which the user wants to hear nothing does only by a mention. */
export function counts(held: RoomState, me: string): boolean {
  return held.room.unread > 0 && (held.room.preferences?.notify !== "nothing" || isMentioned(held, me));
}

function isPersonal(held: RoomState, me: string): boolean {
  return held.room.kind === "direct" || isMentioned(held, me);
}

function later(one: RoomState, other: RoomState): number {
  const first = one.room.last_message?.created_at ?? "";
  const second = other.room.last_message?.created_at ?? "";
  return first === second ? 0 : first > second ? -1 : 1;
}

/** Whether a held unread message mentions the user. */
export function isMentioned({ room, segments }: RoomState, me: string): boolean {
  if (room.unread === 0) return false;
  const from = room.preferences?.unread_from ?? room.read_seq + 1;
  const mentions = (message: Message | null) =>
    message !== null &&
    message.seq >= from &&
    !message.deleted &&
    message.sender !== me &&
    message.mentions.includes(me);
  return mentions(room.last_message) || tailOf(segments).messages.some(mentions);
}

/** Whether the other user of a direct conversation is online: by the last event, else by the snapshot. */
export function isOtherOnline({ room, members }: RoomState, presence: ReadonlyMap<string, Presence>): boolean {
  if (room.kind !== "direct" || room.title === null) return false;
  return (presence.get(room.title) ?? members?.get(room.title))?.online ?? room.online >= 2;
}

/** The text under a room's name: who is typing, else the last message. */
export function previewOf({ room, typing }: RoomState, me: string): { sender: string | null; text: string } {
  const [first, second] = typing;
  if (first !== undefined) {
    if (room.kind === "direct") return { sender: null, text: t("typing…") };
    if (second === undefined) return { sender: null, text: t("{name} is typing…", { name: first }) };
    return {
      sender: null,
      text:
        typing.size === 2
          ? t("{first} and {second} are typing…", { first, second })
          : t("Several people are typing…"),
    };
  }
  const last = room.last_message;
  if (last === null) return { sender: null, text: t("No messages yet") };
  const text = last.deleted ? t("Message deleted") : summaryOf(last, SEEN);
  if (last.sender === me) return { sender: t("You"), text };
  return { sender: room.kind === "direct" ? null : last.sender, text };
}
