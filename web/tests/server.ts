/**
 * A small server: the rooms of one user, `me`, as logs, and one connection of theirs. It makes events, snapshots and
 * pages of history as the real one does, and leaves it to the test when each of them comes.
 */
import type { History, Member, Message, Posting, Room } from "../src/contract.gen.ts";
import type { ServerEvent } from "../src/events.ts";
import { message, room } from "./make.ts";

export const ME = "me";
const EVERYBODY = [ME, "ana", "ben"];

type Entry =
  | { readonly is: "message"; readonly seq: number }
  | { readonly is: "message_edited" | "message_deleted" | "reaction"; readonly of: number }
  | { readonly is: "event"; readonly event: ServerEvent };

export class Log {
  readonly room_id: string;
  readonly isPublic: boolean;
  readonly entries: Entry[] = [];
  readonly messages = new Map<number, Message>();
  readonly members = new Map<string, "member" | "moderator">(EVERYBODY.map((name) => [name, "member"]));
  title: string;
  posting: Posting = "members";
  /** The read marker of `me` */
  read = 0;
  joined = 0;

  constructor(room_id: string, isPublic: boolean) {
    this.room_id = room_id;
    this.isPublic = isPublic;
    this.title = `title of ${room_id}`;
  }

  get head(): number {
    return this.entries.length;
  }

  /** Of a range, as they are now. */
  between(from: number, to: number): Message[] {
    return [...this.messages.values()].filter(({ seq }) => from <= seq && seq <= to);
  }

  snapshot(): Room {
    return room({
      room_id: this.room_id,
      kind: this.isPublic ? "topic" : "group",
      topic_name: this.isPublic ? this.room_id : null,
      title: this.isPublic ? null : this.title,
      posting: this.posting,
      is_private: !this.isPublic,
      role: this.members.get(ME) ?? null,
      members: this.members.size,
      last_seq: this.head,
      read_seq: this.read,
      unread: this.between(this.read + 1, this.head).length,
      last_message: [...this.messages.values()].at(-1) ?? null,
    });
  }

  before(seq: number, limit: number): History {
    const found = this.between(1, seq - 1);
    return { messages: found.slice(-limit), has_more: found.length > limit };
  }

  after(seq: number, limit: number): History {
    const found = this.between(seq + 1, this.head);
    return { messages: found.slice(0, limit), has_more: found.length > limit };
  }

  memberList(): Member[] {
    return [...this.members].map(([username, role]) => ({
      username,
      role,
      online: false,
      last_seen: null,
      display_name: null,
      status: null,
      do_not_disturb_until: null,
      muted_until: null,
      picture: null,
    }));
  }

  /** The event of an entry; of a message or a change of one, with the message as it is now. */
  event(seq: number): ServerEvent {
    const entry = this.entries[seq - 1] as Entry;
    if (entry.is === "event") return entry.event;
    if (entry.is === "message") return { type: "message", data: this.messages.get(entry.seq) as Message };
    const data = { room_id: this.room_id, seq, message: this.messages.get(entry.of) as Message };
    return { type: entry.is, data };
  }

  copy(): Log {
    const copy = new Log(this.room_id, this.isPublic);
    copy.entries.push(...this.entries);
    for (const [seq, one] of this.messages) copy.messages.set(seq, one);
    copy.members.clear();
    for (const [name, role] of this.members) copy.members.set(name, role);
    copy.title = this.title;
    copy.posting = this.posting;
    copy.read = this.read;
    copy.joined = this.joined;
    return copy;
  }
}

/** What goes to the device, in order: `queue` is on its way. */
class Wire {
  readonly queue: ServerEvent[] = [];
  /** Of each room the seq up to which entries were written. */
  readonly positions = new Map<string, number>();
  readonly live = new Set<string>();
  readonly reset: string[] = [];
  /** Rooms that were read elsewhere while the device was away. */
  readonly unread = new Set<string>();
  ready = false;
}

export class Server {
  readonly logs = new Map<string, Log>();
  wire: Wire | null = null;
  private backup = new Map<string, Log>();
  /** How far the device has received a room, as it has told: a room that is here it knows of. */
  private readonly confirmed = new Map<string, number>();
  private readonly readMeanwhile = new Set<string>();
  private said = 0;

  constructor() {
    for (const [room_id, isPublic] of [
      ["r1", false],
      ["r2", true],
    ] as const) {
      this.logs.set(room_id, new Log(room_id, isPublic));
      for (let count = 0; count < 12; count++) this.act(room_id, count % 4 === 3 ? "edit" : "say", count, count);
    }
    this.keep();
  }

  /** The rooms that `me` is in. */
  mine(): Log[] {
    return [...this.logs.values()].filter((log) => log.members.has(ME));
  }

  log(room_id: string): Log {
    return this.logs.get(room_id) as Log;
  }

  act(room_id: string, what: string, one: number, other: number): void {
    const log = this.log(room_id);
    const present = [...log.members.keys()];
    const actor = present[one % present.length] as string;
    const messages = [...log.messages.values()];
    const chosen = messages[messages.length - 1 - (other % (messages.length + 1))];
    switch (what) {
      case "say":
        return this.say(log, actor);
      case "edit":
        if (chosen === undefined || chosen.deleted) return;
        return this.change(log, "message_edited", {
          ...chosen,
          content: `edit ${log.head + 1}`,
          edited_at: `at ${log.head + 1}`,
        });
      case "delete":
        if (chosen === undefined) return;
        return this.change(log, "message_deleted", { ...chosen, content: "", deleted: true, reactions: {} });
      case "react":
        if (chosen === undefined || chosen.deleted) return;
        return this.change(log, "reaction", { ...chosen, reactions: { [`${log.head + 1}`]: [actor] } });
      case "title":
        if (log.isPublic) return;
        log.title = `title ${log.head + 1}`;
        return this.append(log, {
          is: "event",
          event: {
            type: "room_changed",
            data: { room_id, seq: log.head + 1, username: actor, title: log.title },
          },
        });
      case "posting":
        log.posting = log.posting === "members" ? "moderators" : "members";
        return this.append(log, {
          is: "event",
          event: {
            type: "room_changed",
            data: { room_id, seq: log.head + 1, username: actor, posting: log.posting },
          },
        });
      case "publish":
        return this.append(log, {
          is: "event",
          event: { type: "other_entry", data: { room_id, seq: log.head + 1 } },
        });
      case "member":
        return this.member(log, EVERYBODY[1 + (one % 2)] as string);
      case "role":
        return this.role(log, actor);
      case "me":
        return log.members.has(ME) ? this.leave(log) : this.join(log);
      case "read":
        this.read(room_id, other % 3 === 0 ? 1 + (one % Math.max(log.head, 1)) : log.head);
    }
  }

  /** Move the read marker of `me`; what is left unread. */
  read(room_id: string, seq: number): number {
    const log = this.log(room_id);
    if (!log.members.has(ME) || seq > log.head) return 0;
    if (seq > log.read) {
      log.read = seq;
      const receipt = { room_id, username: ME, delivered_seq: 0, read_seq: seq };
      // As the real one, also to a connection that is still being caught up with.
      if (this.wire?.positions.has(room_id)) this.wire.queue.push({ type: "receipt", data: receipt });
      else this.readMeanwhile.add(room_id);
    }
    return log.snapshot().unread;
  }

  connect(cursors: ReadonlyMap<string, number>): void {
    const wire = new Wire();
    this.wire = wire;
    const mine = this.mine();
    for (const room_id of cursors.keys())
      if (!mine.some((log) => log.room_id === room_id))
        wire.queue.push({ type: "room_removed", data: { room_id, reason: "gone" } });
    for (const log of mine) {
      const known = this.confirmed.get(log.room_id);
      const brought = cursors.get(log.room_id) ?? known;
      if (brought === undefined) wire.queue.push({ type: "room_added", data: { room: log.snapshot() } });
      else if (brought > log.head) wire.reset.push(log.room_id);
      wire.positions.set(log.room_id, Math.min(brought ?? log.joined, log.head));
      this.goLive(log);
    }
    for (const room_id of this.readMeanwhile) wire.unread.add(room_id);
    this.readMeanwhile.clear();
  }

  /** The device has an event; it tells so at once. */
  received(event: ServerEvent): void {
    if (event.type === "room_added") this.confirm(event.data.room.room_id, event.data.room.last_seq);
    else if ("seq" in event.data && event.data.seq != null) this.confirm(event.data.room_id, event.data.seq);
  }

  private confirm(room_id: string, seq: number): void {
    if (this.wire?.positions.has(room_id)) this.confirmed.set(room_id, Math.min(seq, this.log(room_id).head));
  }

  /** What was written and has not arrived is lost. */
  disconnect(): void {
    for (const event of this.wire?.queue ?? [])
      if (event.type === "receipt") this.readMeanwhile.add(event.data.room_id);
    for (const room_id of this.wire?.unread ?? []) this.readMeanwhile.add(room_id);
    this.wire = null;
  }

  /** Read on for the connection: some entries of a room that is behind, or `ready` if none is. */
  step(one: number, count: number): void {
    const { wire } = this;
    if (wire === null) return;
    const behind = [...wire.positions.keys()].filter((room_id) => !wire.live.has(room_id));
    const room_id = behind[one % behind.length];
    if (room_id !== undefined) {
      const log = this.log(room_id);
      this.write(log, Math.min((wire.positions.get(room_id) ?? 0) + count, log.head));
      this.goLive(log);
    } else if (!wire.ready) {
      wire.ready = true;
      for (const room_id of wire.unread) {
        if (!wire.positions.has(room_id)) continue;
        const read_seq = this.log(room_id).read;
        wire.queue.push({ type: "receipt", data: { room_id, username: ME, delivered_seq: 0, read_seq } });
      }
      wire.unread.clear();
      const data = {
        username: ME,
        device: "web",
        replayed: 0,
        reset: wire.reset,
        token_expires_at: "",
        display_name: null,
        status: null,
        do_not_disturb_until: null,
      };
      wire.queue.push({ type: "ready", data });
    }
  }

  keep(): void {
    this.backup = new Map([...this.logs].map(([room_id, log]) => [room_id, log.copy()]));
  }

  /** The server is gone, and comes back as it was when `keep` was called. */
  restore(): void {
    this.disconnect();
    for (const [room_id, log] of this.backup)
      if (log.head < this.log(room_id).head) this.logs.set(room_id, log.copy());
    for (const room_id of [...this.confirmed.keys()])
      if (!this.log(room_id).members.has(ME)) this.confirmed.delete(room_id);
  }

  private say(log: Log, sender: string): void {
    const seq = log.head + 1;
    const client_id = sender === ME ? `c${seq}` : null;
    const id = `m${++this.said}`; // a restored log says something else at the same seq
    const topic_name = log.isPublic ? log.room_id : null;
    log.messages.set(seq, message(seq, { id, room_id: log.room_id, topic_name, sender, client_id, content: id }));
    if (sender === ME) log.read = seq;
    this.append(log, { is: "message", seq });
  }

  private change(log: Log, is: "message_edited" | "message_deleted" | "reaction", now: Message): void {
    log.messages.set(now.seq, now);
    this.append(log, { is, of: now.seq });
  }

  private member(log: Log, username: string): void {
    const role = log.members.has(username) ? null : ("member" as const);
    if (role === null) log.members.delete(username);
    else log.members.set(username, role);
    this.tell(log, username, role === null ? "left" : "joined", role);
  }

  private role(log: Log, username: string): void {
    const role = log.members.get(username) === "member" ? ("moderator" as const) : ("member" as const);
    log.members.set(username, role);
    this.tell(log, username, "role", role);
  }

  private leave(log: Log): void {
    log.members.delete(ME);
    this.confirmed.delete(log.room_id);
    const { wire, readMeanwhile } = this;
    readMeanwhile.delete(log.room_id);
    if (wire?.positions.delete(log.room_id)) {
      wire.live.delete(log.room_id);
      wire.unread.delete(log.room_id);
      wire.queue.push({ type: "room_removed", data: { room_id: log.room_id, reason: "kicked" } });
    }
    this.tell(log, ME, "kicked", null);
  }

  private join(log: Log): void {
    log.members.set(ME, "member");
    this.tell(log, ME, "joined", "member");
    log.joined = log.head;
    if (this.wire === null) return;
    this.wire.queue.push({ type: "room_added", data: { room: log.snapshot() } });
    this.wire.positions.set(log.room_id, log.head);
    this.goLive(log);
  }

  /** An entry in private rooms; in public ones told to who is there. */
  private tell(
    log: Log,
    username: string,
    change: "joined" | "left" | "kicked" | "role",
    role: "member" | "moderator" | null,
  ) {
    const data = { room_id: log.room_id, username, change, role };
    if (!log.isPublic)
      return this.append(log, { is: "event", event: { type: "member", data: { ...data, seq: log.head + 1 } } });
    if (this.wire?.positions.has(log.room_id)) this.wire.queue.push({ type: "member", data: { ...data, seq: null } });
  }

  private append(log: Log, entry: Entry): void {
    log.entries.push(entry);
    if (this.wire?.live.has(log.room_id)) this.write(log, log.head);
  }

  private write(log: Log, to: number): void {
    const { wire } = this;
    if (wire === null) return;
    for (let seq = (wire.positions.get(log.room_id) ?? 0) + 1; seq <= to; seq++) wire.queue.push(log.event(seq));
    wire.positions.set(log.room_id, to);
  }

  private goLive(log: Log): void {
    if (this.wire?.positions.get(log.room_id) === log.head) this.wire.live.add(log.room_id);
  }
}
