/** One room as it is held, and how what is counted in it changes. */
import type { Member, MemberChanged, Message, Role, Room } from "./contract.gen.ts";
import type { ServerEvent } from "./store.ts";
import { emptyAt, type Segments, segmentAt, tailOf, withChanged } from "./timeline.ts";

/** How far another user has received and read a room. */
export interface Marks {
  readonly delivered_seq: number;
  readonly read_seq: number;
}

export interface RoomState {
  readonly room: Room;
  /** seq up to which this device holds the room's log: what it brings when it connects. */
  readonly cursor: number;
  readonly segments: Segments;
  /** Messages that were changed by events, by seq, as they are now: a page that is on its way may be older. */
  readonly changed: ReadonlyMap<number, Message>;
  /** By username; null until they were asked for. */
  readonly members: ReadonlyMap<string, Member> | null;
  /** Who came, went or changed role since the members were asked for; null if no answer is awaited. */
  readonly cameMeanwhile: ReadonlyMap<string, Role | null> | null;
  readonly marks: ReadonlyMap<string, Marks>;
  readonly typing: ReadonlySet<string>;
  /**
   * The server does not know the log that was held: the next snapshot counts, whatever it says, and what comes before
   * it waits here. null: all is well.
   */
  readonly waiting: readonly ServerEvent[] | null;
}

/** Old enough for every answer that may be on its way. */
const CHANGED_KEPT = 200;

/** A room of which nothing is held: what comes after the snapshot will be. */
export function begun(room: Room): RoomState {
  return {
    room,
    cursor: room.last_seq,
    segments: emptyAt(room.last_seq),
    changed: new Map(),
    members: null,
    cameMeanwhile: null,
    marks: new Map(),
    typing: new Set(),
    waiting: null,
  };
}

/** The room after a message that its snapshot does not count. */
export function withMessage(room: Room, message: Message, me: string): Room {
  const now = { ...room, last_message: message };
  if (message.sender === me) return { ...now, unread: 0, read_seq: Math.max(room.read_seq, message.seq) };
  // The read marker may be ahead of what has come: a receipt waits for no replay.
  return message.seq > room.read_seq ? { ...now, unread: room.unread + 1 } : now;
}

/** The room read up to a seq, at least; `unread`: how many messages were left then, if the server said so. */
export function withRead(held: RoomState, read_seq: number, unread = Number.POSITIVE_INFINITY): RoomState {
  const { room } = held;
  if (read_seq < room.read_seq) return held;
  const left = unreadAfter(held, read_seq, unread);
  return read_seq === room.read_seq && left === room.unread
    ? held
    : { ...held, room: { ...room, read_seq, unread: left } };
}

/**
 * How many messages up to `last_seq` are after a seq. Counted from what is held, where it is: what the server said may
 * be of a moment before or after it.
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

/** A newer snapshot, or one of the same moment, in the place of the room. What has been read stays read. */
export function withSnapshot(held: RoomState, room: Room): RoomState {
  const { read_seq, unread, last_seq } = held.room;
  if (room.read_seq >= read_seq) return { ...held, room };
  if (room.last_seq === last_seq) return { ...held, room: { ...room, read_seq, unread } };
  return withRead({ ...held, room }, read_seq);
}

/** With a message as it is now: where it is held, and where an older page may bring it. */
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

/** The members as an answer has them, and who came and went while it was on its way. Nothing, if none is awaited. */
export function withMembers(held: RoomState, answer: readonly Member[]): RoomState {
  if (held.cameMeanwhile === null) return held;
  const members = new Map(answer.map((member) => [member.username, member]));
  for (const [username, role] of held.cameMeanwhile) put(members, username, role, false);
  return { ...held, members, cameMeanwhile: null };
}

/** The members after one came, went or changed role. */
export function withMember(held: RoomState, { username, role }: MemberChanged, online: boolean): RoomState {
  const typing = role === null ? without(held.typing, username) : held.typing;
  const { cameMeanwhile: came, members: known } = held;
  const cameMeanwhile = came === null ? null : new Map(came).set(username, role);
  if (known === null) return typing === held.typing && came === null ? held : { ...held, typing, cameMeanwhile };
  const members = new Map(known);
  put(members, username, role, online);
  return { ...held, members, typing, cameMeanwhile };
}

function put(members: Map<string, Member>, username: string, role: Role | null, online: boolean): void {
  if (role === null) members.delete(username);
  else members.set(username, { ...(members.get(username) ?? { username, online, last_seen: null }), role });
}

export function without<T>(set: ReadonlySet<T>, one: T): ReadonlySet<T> {
  if (!set.has(one)) return set;
  const next = new Set(set);
  next.delete(one);
  return next;
}
