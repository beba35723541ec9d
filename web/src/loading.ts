/** Loads what a view needs: pages of a room's log, its members, and their receipts. */
import type { ActionName } from "@tidings/client";
import type { Actions, Member, Profile, Room } from "./contract.gen.ts";
import type { Change, State } from "./store.ts";
import { segmentAt } from "./timeline.ts";

export interface LoadingOptions {
  /** Request an action. Raises a `TidingsError`. */
  ask<A extends ActionName>(action: A, request: Actions[A]["request"]): Promise<Actions[A]["response"]>;
  state(): State;
  /** Apply a change, after the queued ones. */
  take(change: Change): void;
}

const PAGE = 100;
const THREADS = 200;
const MEMBERS_PAGE = 500;
const TOPICS_PAGE = 500;

/** Every method but those of topics applies the answer to the state, and raises a `TidingsError`. Concurrent equal requests share one answer. */
export class Loading {
  private readonly options: LoadingOptions;
  private readonly asked = new Map<string, Promise<void>>();

  constructor(options: LoadingOptions) {
    this.options = options;
  }

  /** The page of the log before a segment. */
  before(room_id: string, from: number): Promise<void> {
    return this.once(`before ${room_id} ${from}`, async () => {
      const { epoch } = this.options.state();
      const { messages, has_more } = await this.options.ask("history", {
        room_id,
        before: from,
        limit: PAGE,
        without_threads: true,
      });
      const first = (has_more ? messages[0]?.seq : 1) ?? 1;
      this.options.take({ type: "page", epoch, room_id, page: { from: first, to: from - 1, messages } });
    });
  }

  /** The page of the log after a segment. */
  after(room_id: string, to: number): Promise<void> {
    return this.once(`after ${room_id} ${to}`, async () => {
      const { epoch, rooms } = this.options.state();
      // The answer covers the log up to this seq: an empty page means that there are no messages up to there.
      const cursor = rooms.get(room_id)?.cursor ?? to;
      const { messages, has_more } = await this.options.ask("history", {
        room_id,
        after: to,
        limit: PAGE,
        without_threads: true,
      });
      const last = messages.at(-1)?.seq ?? to;
      const end = has_more ? last : Math.max(last, cursor);
      this.options.take({ type: "page", epoch, room_id, page: { from: to + 1, to: end, messages } });
    });
  }

  /** The log around a seq; for 1, the beginning of the log as it is now. */
  around(room_id: string, seq: number): Promise<void> {
    const held = this.options.state().rooms.get(room_id);
    if (held === undefined || segmentAt(held.segments, seq) !== null) return Promise.resolve();
    if (seq <= 1) return this.after(room_id, 0);
    return this.before(room_id, Math.min(seq + PAGE / 2, held.cursor + 1));
  }

  /** The seq of the first message at or after a time (ISO 8601, UTC, milliseconds), if any. */
  async firstSince(room_id: string, at: string): Promise<number | null> {
    let first: number | null = null;
    let before = 0;
    let after = (this.options.state().rooms.get(room_id)?.room.last_seq ?? 0) + 1;
    // Binary search: the log up to `before` is earlier than the time, the log from `after` on is not.
    while (after - before > 1) {
      const middle = Math.floor((before + after) / 2);
      const { messages } = await this.options.ask("history", { room_id, before: middle + 1, limit: 1 });
      const message = messages[0];
      if (message === undefined || message.seq <= before || message.created_at < at) before = middle;
      else {
        first = message.seq;
        after = message.seq;
      }
    }
    return first;
  }

  /** The threads that the user follows, those with the newest replies. */
  threads(): Promise<void> {
    return this.once("threads", async () => {
      const { epoch } = this.options.state();
      const { threads } = await this.options.ask("get_threads", { limit: THREADS });
      this.options.take({ type: "threads", epoch, threads });
    });
  }

  /** A page of the replies in a thread, before those that are held. Resolves with whether there are more. */
  async replies(room_id: string, thread: string): Promise<boolean> {
    this.options.take({ type: "thread_opened", room_id, thread });
    const { epoch, threads } = this.options.state();
    const first = threads.get(thread)?.replies?.[0]?.seq;
    const page = await this.options.ask("history", {
      room_id,
      thread,
      limit: PAGE,
      ...(first === undefined ? {} : { before: first }),
    });
    this.options.take({ type: "replies", epoch, thread, messages: page.messages, began: page.began ?? null });
    return page.has_more;
  }

  /** All pages of a room's members. */
  members(room_id: string): Promise<void> {
    return this.once(`members ${room_id}`, async () => {
      this.options.take({ type: "members_asked", room_id });
      const members: Member[] = [];
      let after: string | null = null;
      do {
        const page: Actions["get_members"]["response"] = await this.options.ask("get_members", {
          room_id,
          limit: MEMBERS_PAGE,
          ...(after === null ? {} : { after }),
        });
        members.push(...page.members);
        after = page.next;
      } while (after !== null);
      this.options.take({ type: "members", room_id, members });
    });
  }

  /** A user's profile; the username may be written in another case. */
  async profile(username: string): Promise<Profile> {
    const profile = await this.options.ask("get_profile", { username });
    this.options.take({ type: "profile", data: profile });
    return profile;
  }

  /** The open reports of a room that the user moderates. */
  reports(room_id: string): Promise<void> {
    return this.once(`reports ${room_id}`, async () => {
      const { reports } = await this.options.ask("get_reports", { room_id, limit: MEMBERS_PAGE });
      this.options.take({ type: "reports", room_id, reports });
    });
  }

  /** How far the other members have received and read a room. */
  receipts(room_id: string): Promise<void> {
    return this.once(`receipts ${room_id}`, async () => {
      const { receipts } = await this.options.ask("get_receipts", { room_id });
      this.options.take({ type: "receipts", room_id, receipts });
    });
  }

  /** The public topics, page by page. `member` false: only those that the user is not in. */
  async *topics(member?: false): AsyncGenerator<readonly Room[]> {
    let after: string | null = null;
    do {
      const page: Actions["get_rooms"]["response"] = await this.options.ask("get_rooms", {
        kind: "topic",
        limit: TOPICS_PAGE,
        ...(member === undefined ? {} : { member }),
        ...(after === null ? {} : { after }),
      });
      yield page.rooms.filter((room) => !room.is_private);
      after = page.next;
    } while (after !== null);
  }

  private once(key: string, work: () => Promise<void>): Promise<void> {
    const running = this.asked.get(key);
    if (running !== undefined) return running;
    const begun = work().finally(() => this.asked.delete(key));
    this.asked.set(key, begun);
    return begun;
  }
}
