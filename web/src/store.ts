/**
 * The client's state, and the only function that changes it: `applied(state, changes)`.
 *
 * The law, as on the server: a snapshot with the events after it is the newer snapshot. So answers
 * and events may arrive in any order, and a repeated event changes nothing.
 *
 * Some changes invalidate the answers that are pending: the user loses a room, its log was reset, its snapshot after a
 * reset arrives, the connection is lost (the user may have joined and left a room meanwhile, without an event). Then
 * `State.epoch` grows; an answer carries the epoch of its request, and one of an earlier epoch changes nothing.
 */
import type {
  Member,
  MemberChanged,
  Message,
  MessageChanged,
  ProfileChanged,
  Receipt,
  Report,
  Room,
  RoomChanged,
  RoomRemoved,
  Thread,
} from "./contract.gen.ts";
import type { ServerEvent } from "./events.ts";
import {
  appended,
  begun,
  type Note,
  type RoomState,
  withAppended,
  withLater,
  withMember,
  withMembers,
  withMessage,
  withNewest,
  withNote,
  without,
  withRead,
  withSnapshot,
} from "./room.ts";
import {
  opened,
  type Threads,
  withChangedMessage,
  withoutRoom,
  withPiece,
  withReplies,
  withReply,
  withThread,
} from "./threads.ts";
import type { Segment } from "./timeline.ts";
import { extended, findById, tailOnly, trimmed, withPage } from "./timeline.ts";

export { begun, type Marks, type Note, type RoomState } from "./room.ts";

/** Changes from answers and from this device itself. */
export type LocalChange =
  | { readonly type: "rooms"; readonly epoch: number; readonly rooms: readonly Room[] }
  | { readonly type: "page"; readonly epoch: number; readonly room_id: string; readonly page: Segment }
  | { readonly type: "trim"; readonly room_id: string; readonly around: number }
  | { readonly type: "tail_only"; readonly room_id: string }
  | { readonly type: "members_asked"; readonly room_id: string }
  | { readonly type: "members"; readonly room_id: string; readonly members: readonly Member[] }
  | { readonly type: "receipts"; readonly room_id: string; readonly receipts: readonly Receipt[] }
  | { readonly type: "reports"; readonly room_id: string; readonly reports: readonly Report[] }
  | { readonly type: "muted"; readonly room_id: string; readonly until: string | null }
  | { readonly type: "threads"; readonly epoch: number; readonly threads: readonly Thread[] }
  | { readonly type: "thread_opened"; readonly room_id: string; readonly thread: string }
  | {
      readonly type: "replies";
      readonly epoch: number;
      readonly thread: string;
      readonly messages: readonly Message[];
      readonly began: Message | null;
    }
  | { readonly type: "read"; readonly room_id: string; readonly seq: number; readonly unread: number }
  | { readonly type: "disconnected" };

export type Change = ServerEvent | LocalChange;

export interface Presence {
  readonly online: boolean;
  readonly last_seen: string | null;
  readonly display_name: string | null;
}

/** A room that the user has lost, and why. */
export interface Gone {
  readonly room: Room;
  readonly reason: string;
}

export interface State {
  readonly me: string;
  readonly rooms: ReadonlyMap<string, RoomState>;
  /** By room_id, since the page was opened */
  readonly gone: ReadonlyMap<string, Gone>;
  /** Since the connection was made, by username. */
  readonly presence: ReadonlyMap<string, Presence>;
  /** The ids of the users' pictures, as far as they are known, by username. */
  readonly pictures: ReadonlyMap<string, string>;
  /** As far as they came by themselves or were asked for, by username. */
  readonly profiles: ReadonlyMap<string, ProfileChanged>;
  /** The open reports of rooms that the user moderates, oldest first, by room_id; as far as they were asked for. */
  readonly reports: ReadonlyMap<string, readonly Report[]>;
  /** Those that the user follows, since the connection was made, and those that were opened; by their ids. */
  readonly threads: Threads;
  readonly epoch: number;
  /**
   * Between a connect and the snapshot after it, events of rooms that this device does not have: it may have received
   * `room_added` and closed before it stored the room. null: the user is not in such a room.
   */
  readonly unknownRooms: ReadonlyMap<string, readonly ServerEvent[]> | null;
}

/** Messages kept of a room that is not on the screen. */
export const KEPT = 300;
/** Messages kept on either side of the screen. */
export const AROUND = 2000;

export function initial(me: string): State {
  return {
    me,
    rooms: new Map(),
    gone: new Map(),
    presence: new Map(),
    pictures: new Map(),
    profiles: new Map(),
    reports: new Map(),
    threads: new Map(),
    epoch: 0,
    unknownRooms: new Map(),
  };
}

/** What is known of a user: as a member of a room, or by a change of the profile. */
export function profileOf(
  { rooms, profiles }: State,
  room_id: string,
  username: string,
): Member | ProfileChanged | undefined {
  return rooms.get(room_id)?.members?.get(username) ?? profiles.get(username);
}

/** What to call a user of a room. */
export function displayNameOf(state: State, room_id: string, username: string): string {
  return (profileOf(state, room_id, username) ?? state.presence.get(username))?.display_name ?? username;
}

/** The state after changes, in order. Each changed room is copied once, however many changes there are. */
export function applied(state: State, changes: Iterable<Change>): State {
  const draft = new Draft(state);
  for (const change of changes) draft.apply(change);
  return draft.end();
}

/** Messages to append to a room's tail together, so that a thousand of them cost one copy. */
interface Growth {
  first: number;
  to: number;
  messages: Message[];
}

class Draft {
  private readonly before: State;
  private rooms: Map<string, RoomState> | null = null;
  private gone: ReadonlyMap<string, Gone>;
  private presence: Map<string, Presence> | null = null;
  private pictures: State["pictures"];
  private profiles: State["profiles"];
  private reports: State["reports"];
  private threads: Threads;
  private readonly growing = new Map<string, Growth>();
  private readonly waiting = new Map<string, ServerEvent[]>();
  private epoch: number;
  private unknownRooms: State["unknownRooms"];

  constructor(before: State) {
    this.before = before;
    this.epoch = before.epoch;
    this.gone = before.gone;
    this.pictures = before.pictures;
    this.profiles = before.profiles;
    this.reports = before.reports;
    this.threads = before.threads;
    this.unknownRooms = before.unknownRooms;
  }

  end(): State {
    for (const room_id of [...this.growing.keys(), ...this.waiting.keys()]) this.settle(room_id);
    const { before, rooms, gone, presence, pictures, profiles, reports, threads, epoch, unknownRooms } = this;
    const same =
      rooms === null &&
      presence === null &&
      pictures === before.pictures &&
      profiles === before.profiles &&
      reports === before.reports &&
      threads === before.threads;
    if (same && epoch === before.epoch && unknownRooms === before.unknownRooms) return before;
    return {
      me: before.me,
      rooms: rooms ?? before.rooms,
      gone,
      presence: presence ?? before.presence,
      pictures,
      profiles,
      reports,
      threads,
      epoch,
      unknownRooms,
    };
  }

  apply(change: Change): void {
    switch (change.type) {
      case "message":
        if (this.waits(change)) return;
        if (change.data.thread != null) return this.reply(change.data);
        return this.entry(change.data.room_id, change.data.seq, change.data);
      case "message_edited":
      case "message_finished":
      case "message_deleted":
      case "reaction":
        if (this.waits(change)) return;
        return this.changed(change.data);
      case "message_append":
        if (this.waits(change)) return;
        this.threads = withPiece(this.threads, change.data, (message) => appended(message, change.data));
        return this.update(change.data.room_id, (held) => withAppended(held, change.data));
      case "thread":
        this.threads = withThread(this.threads, change.data);
        return;
      case "threads":
        if (change.epoch !== this.epoch) return;
        for (const thread of change.threads) this.threads = withThread(this.threads, thread);
        return;
      case "thread_opened":
        this.threads = opened(this.threads, change.room_id, change.thread);
        return;
      case "replies":
        if (change.epoch !== this.epoch) return;
        this.threads = withReplies(this.threads, change.thread, change.messages, change.began);
        return;
      case "member":
        if (this.waits(change)) return;
        return this.member(change.data);
      case "room_changed":
        if (this.waits(change)) return;
        return this.roomChanged(change.data);
      case "other_entry":
        if (this.waits(change)) return;
        return this.entry(change.data.room_id, change.data.seq, null);
      case "room_added":
        return this.put(begun(change.data.room));
      case "room_removed":
        return this.removed(change.data);
      case "typing":
        return this.typing(change.data.room_id, change.data.username, change.data.typing);
      case "presence":
        this.picture(change.data);
        return this.setPresence(change.data.username, {
          online: change.data.online,
          last_seen: change.data.last_seen,
          display_name: change.data.display_name,
        });
      case "profile":
        return this.setProfile(change.data);
      case "preferences": {
        const { preferences, unread } = change.data;
        return this.update(change.data.room_id, (held) => ({ ...held, room: { ...held.room, preferences, unread } }));
      }
      case "reported": {
        const { room_id, report } = change.data;
        const others = this.reports.get(room_id)?.filter(({ report_id }) => report_id !== report.report_id) ?? [];
        this.reports = new Map(this.reports).set(room_id, [...others, report]);
        return;
      }
      case "reports":
        this.reports = new Map(this.reports).set(change.room_id, change.reports);
        return;
      case "receipt":
        if (this.waits(change)) return;
        return this.receipt(change.data);
      case "ready":
        for (const room_id of change.data.reset) this.forget(room_id);
        return;
      case "closing":
        return;
      case "rooms":
        if (change.epoch !== this.epoch) return;
        for (const room of change.rooms) this.snapshot(room);
        this.unknownRooms = null;
        return;
      case "page":
        if (change.epoch !== this.epoch) return;
        return this.page(change.room_id, change.page);
      case "trim":
        return this.update(change.room_id, (room) => ({
          ...room,
          segments: trimmed(room.segments, change.around, AROUND),
        }));
      case "tail_only":
        return this.update(change.room_id, (room) => ({ ...room, segments: tailOnly(room.segments, KEPT) }));
      case "members_asked":
        return this.update(change.room_id, (held) => ({ ...held, cameMeanwhile: new Map() }));
      case "members":
        for (const member of change.members) this.picture(member);
        return this.update(change.room_id, (held) => withMembers(held, change.members, this.before.me));
      case "receipts":
        for (const receipt of change.receipts) this.receipt(receipt);
        return;
      case "muted":
        return this.update(change.room_id, (held) =>
          held.mutedUntil === change.until ? held : { ...held, mutedUntil: change.until },
        );
      case "read":
        return this.update(change.room_id, (held) => withRead(held, change.seq, change.unread));
      case "disconnected":
        return this.disconnected();
      default:
        change satisfies never;
    }
  }

  private get(room_id: string): RoomState | undefined {
    return (this.rooms ?? this.before.rooms).get(room_id);
  }

  private writable(): Map<string, RoomState> {
    this.rooms ??= new Map(this.before.rooms);
    return this.rooms;
  }

  /** A room that is new here. */
  private put(room: RoomState): void {
    this.growing.delete(room.room.room_id);
    this.waiting.delete(room.room.room_id);
    this.writable().set(room.room.room_id, room);
  }

  private removed({ room_id, reason }: RoomRemoved): void {
    const held = this.get(room_id);
    if (held !== undefined) this.gone = new Map(this.gone).set(room_id, { room: held.room, reason });
    this.threads = withoutRoom(this.threads, room_id);
    this.epoch++;
    this.growing.delete(room_id);
    this.waiting.delete(room_id);
    if (this.get(room_id) !== undefined) this.writable().delete(room_id);
  }

  /** Queue an event that has to wait for the snapshot of its room. Returns whether it has to. */
  private waits(event: ServerEvent & { readonly data: { readonly room_id: string } }): boolean {
    const { room_id } = event.data;
    const held = this.get(room_id);
    if (held === undefined && this.unknownRooms !== null)
      this.unknownRooms = new Map(this.unknownRooms).set(room_id, [...(this.unknownRooms.get(room_id) ?? []), event]);
    if (held === undefined) return true;
    if (held.waiting === null) return false;
    const waiting = this.waiting.get(room_id);
    if (waiting === undefined) this.waiting.set(room_id, [event]);
    else waiting.push(event);
    return true;
  }

  private update(room_id: string, make: (room: RoomState) => RoomState): void {
    this.settle(room_id);
    const room = this.get(room_id);
    if (room === undefined) return;
    const next = make(room);
    if (next !== room) this.writable().set(room_id, next);
  }

  /** The room with its queued messages appended. */
  private settle(room_id: string): void {
    const growth = this.growing.get(room_id);
    const waiting = this.waiting.get(room_id);
    const room = this.get(room_id);
    if (room === undefined) return;
    if (growth !== undefined) {
      this.growing.delete(room_id);
      const segments = extended(room.segments, growth.first, growth.to, growth.messages);
      this.writable().set(room_id, { ...room, segments });
    } else if (waiting !== undefined) {
      this.waiting.delete(room_id);
      this.writable().set(room_id, { ...room, waiting: [...(room.waiting ?? []), ...waiting] });
    }
  }

  /** Apply an entry: count it unless the snapshot includes it, append it unless the tail has it. */
  private entry(room_id: string, seq: number, message: Message | null, counted?: (room: Room) => Room): void {
    const held = this.get(room_id);
    if (held === undefined) return;
    let { room, cursor, typing } = held;
    if (seq > room.last_seq) {
      room = { ...room, last_seq: seq };
      if (message !== null) room = withMessage(room, message, this.before.me);
      if (counted !== undefined) room = counted(room);
    }
    if (seq > cursor) {
      cursor = seq;
      const growth = this.growing.get(room_id);
      if (growth !== undefined && growth.to + 1 === seq) {
        growth.to = seq;
        if (message !== null) growth.messages.push(message);
      } else {
        this.settle(room_id);
        this.growing.set(room_id, { first: seq, to: seq, messages: message === null ? [] : [message] });
      }
    }
    if (message !== null && typing.has(message.sender)) typing = without(typing, message.sender);
    const now = this.get(room_id) as RoomState;
    if (room !== now.room || cursor !== now.cursor || typing !== now.typing)
      this.writable().set(room_id, { ...now, room, cursor, typing });
  }

  private changed(change: MessageChanged): void {
    const { room_id, seq, message } = change;
    const held = this.get(room_id);
    if (held === undefined || seq <= held.cursor) return;
    const isLast = held.room.last_message?.id === message.id;
    this.entry(room_id, seq, null, (room) => (isLast ? { ...room, last_message: message } : room));
    this.threads = withChangedMessage(this.threads, message);
    if (message.thread == null) this.update(room_id, (held) => withNewest(held, message));
  }

  /** A reply in a thread: an entry that the room does not show, but counts at the message that began the thread. */
  private reply(reply: Message): void {
    const { room_id, seq, thread, replies = 0 } = reply;
    const held = this.get(room_id);
    if (held === undefined || seq <= held.cursor) return;
    this.threads = withReply(this.threads, reply, this.before.me);
    this.entry(room_id, seq, null);
    this.update(room_id, (held) => {
      const began = findById(held.segments, thread ?? "");
      return began === null || (began.replies ?? 0) >= replies ? held : withNewest(held, { ...began, replies });
    });
  }

  private roomChanged({ room_id, seq, username, title, posting, purpose, picture }: RoomChanged): void {
    const note =
      title != null
        ? { change: "title", title }
        : posting != null
          ? { change: "posting", title: posting }
          : purpose !== undefined
            ? { change: "purpose", title: purpose }
            : { change: "picture", title: picture ?? null };
    if (seq > (this.get(room_id)?.cursor ?? 0))
      this.update(room_id, (held) => withNote(held, { seq, username, role: null, ...note } as Note));
    this.entry(room_id, seq, null, (room) => ({
      ...room,
      title: title ?? room.title,
      posting: posting ?? room.posting,
      purpose: purpose === undefined ? room.purpose : purpose,
      picture: picture === undefined ? room.picture : picture,
    }));
  }

  private member(change: MemberChanged): void {
    const counted = (room: Room): Room => {
      if (change.change === "role") return change.username === this.before.me ? { ...room, role: change.role } : room;
      return { ...room, members: room.members + (change.change === "joined" ? 1 : -1) };
    };
    if (change.seq == null) this.update(change.room_id, (held) => ({ ...held, room: counted(held.room) }));
    else if (change.seq <= (this.get(change.room_id)?.cursor ?? 0)) return;
    else {
      const { room_id, seq, username, change: what, role } = change;
      this.update(room_id, (held) => withNote(held, { seq, username, change: what, role, title: null }));
      this.entry(room_id, seq, null, counted);
    }
    const online = this.presenceOf(change.username)?.online ?? false;
    this.update(change.room_id, (held) => withMember(held, change, online));
  }

  private presenceOf(username: string): Presence | undefined {
    return (this.presence ?? this.before.presence).get(username);
  }

  private picture({ username, picture }: Pick<Member, "username" | "picture">): void {
    if ((this.pictures.get(username) ?? null) === (picture ?? null)) return;
    const next = new Map(this.pictures);
    if (picture == null) next.delete(username);
    else next.set(username, picture);
    this.pictures = next;
  }

  private setPresence(username: string, presence: Presence): void {
    const known = this.presenceOf(username);
    const fields = ["online", "last_seen", "display_name"] as const;
    if (known !== undefined && fields.every((field) => known[field] === presence[field])) return;
    this.presence ??= new Map(this.before.presence);
    this.presence.set(username, presence);
    this.updateMember(username, presence);
  }

  /** Change what the lists of members say of a user. */
  private updateMember(username: string, change: Partial<Member>): void {
    for (const [room_id, room] of this.rooms ?? this.before.rooms) {
      const member = room.members?.get(username);
      if (member === undefined) continue;
      this.update(room_id, (held) => ({
        ...held,
        members: new Map(held.members).set(username, { ...member, ...change }),
      }));
    }
  }

  private setProfile(profile: ProfileChanged): void {
    const { username, display_name, status, do_not_disturb_until } = profile;
    this.profiles = new Map(this.profiles).set(username, profile);
    this.picture(profile);
    const known = this.presenceOf(username);
    if (known !== undefined) {
      this.presence ??= new Map(this.before.presence);
      this.presence.set(username, { ...known, display_name });
    }
    this.updateMember(username, { display_name, status, do_not_disturb_until });
  }

  private typing(room_id: string, username: string, typing: boolean): void {
    if (username === this.before.me) return;
    this.update(room_id, (room) => {
      if (room.typing.has(username) === typing) return room;
      return { ...room, typing: typing ? new Set(room.typing).add(username) : without(room.typing, username) };
    });
  }

  private receipt(receipt: Receipt): void {
    const { room_id, username, delivered_seq, read_seq } = receipt;
    this.update(room_id, (held) => {
      if (username === this.before.me) return read_seq > held.room.read_seq ? withRead(held, read_seq) : held;
      const known = held.marks.get(username);
      const marks = {
        delivered_seq: Math.max(delivered_seq, known?.delivered_seq ?? 0),
        read_seq: Math.max(read_seq, known?.read_seq ?? 0),
      };
      if (marks.delivered_seq === known?.delivered_seq && marks.read_seq === known.read_seq) return held;
      return { ...held, marks: new Map(held.marks).set(username, marks) };
    });
  }

  /** The room's log ends before our cursor, so the held messages may be of another log. The snapshot comes next. */
  private forget(room_id: string): void {
    const held = this.get(room_id);
    if (held === undefined) return;
    this.threads = withoutRoom(this.threads, room_id);
    this.epoch++;
    this.put({ ...begun({ ...held.room, last_seq: 0 }), waiting: [] });
  }

  private snapshot(room: Room): void {
    this.settle(room.room_id);
    const held = this.get(room.room_id);
    if (held === undefined || held.waiting !== null) {
      // A page requested earlier may lack entries that the snapshot counts and that do not arrive again.
      if (held !== undefined) this.epoch++;
      this.put(begun(room));
      for (const event of held?.waiting ?? this.unknownRooms?.get(room.room_id) ?? []) this.apply(event);
    } else if (room.last_seq >= held.room.last_seq) {
      this.writable().set(room.room_id, withSnapshot(held, room));
    } // else an event has overtaken the answer
  }

  private page(room_id: string, page: Segment): void {
    this.update(room_id, (room) => {
      const messages = page.messages.map((message) => withLater(room.changed.get(message.seq), message));
      // The page reaches beyond the cursor: the entries there will arrive as events, in order.
      const to = Math.min(page.to, room.cursor);
      const within = messages.filter((message) => message.seq <= to);
      return { ...room, segments: withPage(room.segments, { from: page.from, to, messages: within }) };
    });
  }

  private disconnected(): void {
    this.epoch++;
    this.presence = new Map();
    this.unknownRooms = new Map();
    for (const [room_id, room] of this.rooms ?? this.before.rooms)
      if (room.typing.size > 0) this.update(room_id, (held) => ({ ...held, typing: new Set() }));
  }
}
