/** The state of one room, and how events change its counts. */
import type { Member, MemberChanged, Message, MessageAppend, Role, Room } from "./contract.gen.ts";
import type { ServerEvent } from "./events.ts";
import { emptyAt, findById, type Segments, segmentAt, tailOf, withChanged } from "./timeline.ts";

/** How far another user has received and read a room. */
export interface Marks {
  readonly delivered_seq: number;
  readonly read_seq: number;
}

/** An entry of a room's log that is not about a message: a membership or title change. */
export interface Note {
  readonly seq: number;
  /** The member that it is about; for a title or who may write, the one who chose it */
  readonly username: string;
  readonly change: MemberChanged["change"] | "title" | "posting" | "purpose" | "picture";
  readonly role: Role | null;
  /** The new title, purpose or picture; or who may write now */
  readonly title: string | null;
}

export interface RoomState {
  readonly room: Room;
  /** The seq up to which this device has the room's log; brought at the next connect. */
  readonly cursor: number;
  readonly segments: Segments;
  /** The newest that arrived as events, in seq order: pages of history do not have them. */
  readonly notes: readonly Note[];
  /** Messages that events have changed, by seq: a page that is still loading may have their former state. */
  readonly changed: ReadonlyMap<number, Message>;
  /** By username; null until they are loaded. */
  readonly members: ReadonlyMap<string, Member> | null;
  /** When the user's mute ends (ISO 8601), as far as this device knows; possibly in the past. */
  readonly mutedUntil: string | null;
  /** Membership changes since the members were requested; null if no answer is pending. */
  readonly cameMeanwhile: ReadonlyMap<string, Role | null> | null;
  readonly marks: ReadonlyMap<string, Marks>;
  readonly typing: ReadonlySet<string>;
  /**
   * After a reset of the log, the next snapshot replaces the room in any case. Events before it
   * wait here. null: there was no reset.
   */
  readonly waiting: readonly ServerEvent[] | null;
}

const NOTES_KEPT = 50;
/** Longer than any answer may take. */
const CHANGED_KEPT = 200;

/** A room without messages: those after its snapshot will be added. */
export function begun(room: Room): RoomState {
  return {
    room,
    cursor: room.last_seq,
    segments: emptyAt(room.last_seq),
    notes: [],
    changed: new Map(),
    members: null,
    mutedUntil: null,
    cameMeanwhile: null,
    marks: new Map(),
    typing: new Set(),
    waiting: null,
  };
}

/** The room after a message that its snapshot does not include. */
export function withMessage(room: Room, message: Message, me: string): Room {
  const now = { ...room, last_message: message };
  if (message.sender === me) return { ...unmarked(now), unread: 0, read_seq: Math.max(room.read_seq, message.seq) };
  // The read marker may be ahead of the cursor, because a receipt does not wait for the replay.
  return message.seq > room.read_seq ? { ...now, unread: room.unread + 1 } : now;
}

/** The room read up to a seq at least. `unread`: the number of messages after it, if the server gave one. */
export function withRead(held: RoomState, read_seq: number, unread = Number.POSITIVE_INFINITY): RoomState {
  const { room } = held;
  if (read_seq < room.read_seq) return held;
  const left = unreadAfter(held, read_seq, unread);
  return read_seq === room.read_seq && left === room.unread
    ? held
    : { ...held, room: { ...(read_seq > room.read_seq ? unmarked(room) : room), read_seq, unread: left } };
}

/** The room without the user's mark as unread, which ends when the read marker moves. */
function unmarked(room: Room): Room {
  const { preferences } = room;
  return preferences?.unread_from == null ? room : { ...room, preferences: { ...preferences, unread_from: null } };
}

/**
 * The number of messages after a seq, up to `last_seq`. Counted in the held log where possible: the server's number
 * may be of an earlier or later moment.
 */
function unreadAfter({ room, cursor, segments }: RoomState, seq: number, said: number): number {
  if (seq >= room.last_seq) return 0;
  const { from, messages } = tailOf(segments);
  if (from <= seq + 1 && cursor >= room.last_seq) return messages.filter((one) => one.seq > seq).length;
  const segment = seq === room.read_seq ? null : segmentAt(segments, seq);
  if (segment !== null && segment.from <= room.read_seq + 1)
    return room.unread - segment.messages.filter((one) => room.read_seq < one.seq && one.seq <= seq).length;
  return Math.min(said, room.unread, room.last_seq - seq);
}

/** The room after a newer or equally new snapshot. Read messages stay read. */
export function withSnapshot(held: RoomState, room: Room): RoomState {
  const { read_seq, unread, last_seq } = held.room;
  if (room.read_seq >= read_seq) return { ...held, room };
  if (room.last_seq === last_seq) return { ...held, room: { ...room, read_seq, unread } };
  return withRead({ ...held, room }, read_seq);
}

/** The room with a changed message, also for the pages that are still loading. */
export function withNewest(held: RoomState, message: Message): RoomState {
  const changed = new Map(held.changed);
  changed.delete(message.seq);
  changed.set(message.seq, message);
  for (const oldest of changed.keys()) {
    if (changed.size <= CHANGED_KEPT) break;
    changed.delete(oldest);
  }
  return { ...held, segments: withChanged(held.segments, message), changed };
}

/**
 * The room with a piece of a streaming message. Unchanged if the message is not held, or has ended, or lacks text
 * before the piece: a later event has that text.
 */
export function withAppended(held: RoomState, piece: MessageAppend): RoomState {
  const before = findById(held.segments, piece.message_id);
  const message = before === null ? null : appended(before, piece);
  if (message === null || message === before) return held;
  const { room, changed } = held;
  return {
    ...held,
    room: room.last_message?.id === message.id ? { ...room, last_message: message } : room,
    segments: withChanged(held.segments, message),
    changed: changed.has(message.seq) ? new Map(changed).set(message.seq, message) : changed,
  };
}

/** A message with a piece of text; the same one if it has ended, or lacks text before the piece. */
export function appended(message: Message, { offset, text }: MessageAppend): Message {
  const kept = message.state === "streaming" ? firstPoints(message.content, offset) : null;
  return kept === null || kept + text === message.content ? message : { ...message, content: kept + text };
}

/** A message of a page, as an event has changed it. If it streams, the page may have more of its text than the event. */
export function withLater(changed: Message | undefined, message: Message): Message {
  if (changed === undefined) return message;
  const both = changed.state === "streaming" && message.state === "streaming";
  return both && message.content.length > changed.content.length ? { ...changed, content: message.content } : changed;
}

/** The first Unicode code points of a text; null: it has fewer. */
function firstPoints(text: string, count: number): string | null {
  let at = 0;
  for (let left = count; left > 0; left--) {
    const point = text.codePointAt(at);
    if (point === undefined) return null;
    at += point > 0xffff ? 2 : 1;
  }
  return text.slice(0, at);
}

/** The room with one more note, the newest. */
export function withNote(held: RoomState, note: Note): RoomState {
  return { ...held, notes: [...held.notes, note].slice(-NOTES_KEPT) };
}

/** The room with loaded members, plus the changes since their request. Unchanged if no answer is pending. */
export function withMembers(held: RoomState, answer: readonly Member[], me: string): RoomState {
  if (held.cameMeanwhile === null) return held;
  const mutedUntil = answer.find(({ username }) => username === me)?.muted_until ?? null;
  const members = new Map(answer.map((member) => [member.username, member]));
  for (const [username, role] of held.cameMeanwhile) put(members, username, role, false);
  return { ...held, members, mutedUntil, cameMeanwhile: null };
}

/** The members after one joined, left or changed role. */
export function withMember(held: RoomState, { username, role }: MemberChanged, online: boolean): RoomState {
  const typing = role === null ? without(held.typing, username) : held.typing;
  const { cameMeanwhile: came, members: known } = held;
  const cameMeanwhile = came === null ? null : new Map(came).set(username, role);
  if (known === null) return typing === held.typing && came === null ? held : { ...held, typing, cameMeanwhile };
  const members = new Map(known);
  put(members, username, role, online);
  return { ...held, members, typing, cameMeanwhile };
}

/** What a change of the members does not say of them. */
const UNKNOWN = {
  last_seen: null,
  display_name: null,
  picture: null,
  status: null,
  do_not_disturb_until: null,
  muted_until: null,
} as const;

function put(members: Map<string, Member>, username: string, role: Role | null, online: boolean): void {
  if (role === null) members.delete(username);
  else
    members.set(username, {
      ...(members.get(username) ?? { username, online, ...UNKNOWN }),
      role,
    });
}

export function without<T>(set: ReadonlySet<T>, one: T): ReadonlySet<T> {
  if (!set.has(one)) return set;
  const next = new Set(set);
  next.delete(one);
  return next;
}
