/** A device of `me`: it asks as client.ts does, and takes what comes when the test lets it come. */
import fc from "fast-check";
import { expect } from "vitest";
import type { History } from "../src/contract.gen.ts";
import type { ServerEvent } from "../src/events.ts";
import { applied, type Change, initial, type RoomState, type State } from "../src/store.ts";
import { tailOf } from "../src/timeline.ts";
import { ME, Server } from "./server.ts";

const PAGE = 3;

/** A question: the server may answer it later, and the answer come later still. */
interface Question {
  /** Over HTTP: the answer comes, even if the connection is another by then. */
  readonly http: boolean;
  readonly about: string;
  readonly compute: () => Change | null;
  answer: Change | null | undefined;
}

export class Device {
  readonly server = new Server();
  state: State;
  questions: Question[] = [];
  /** Rooms in which messages were read of which nothing was held: how many are unread, the next snapshot says. */
  readonly guessed = new Set<string>();
  /** Since the server was restored, until it has told. */
  restored = false;
  ready = false;
  /** All that has arrived, for a test that stores it. */
  readonly arrived: ServerEvent[] = [];
  private last: ServerEvent[] = [];
  private readonly oneByOne: boolean;

  /** `oneByOne`: hold what comes at once against the same, taken one after the other. */
  constructor(oneByOne = false) {
    this.oneByOne = oneByOne;
    this.state = initial(ME);
    this.take([{ type: "rooms", epoch: 0, rooms: this.server.mine().map((log) => log.snapshot()) }]);
    this.connect();
  }

  take(changes: readonly Change[]): void {
    for (const change of changes) this.guess(change);
    const before = this.state;
    this.state = applied(before, changes);
    if (this.oneByOne && changes.length > 1)
      expect(this.state).toEqual(changes.reduce((state, change) => applied(state, [change]), before));
  }

  connect(): void {
    this.server.connect(this.cursors());
  }

  /** What is brought at a connect. */
  protected cursors(): Map<string, number> {
    return new Map([...this.state.rooms].map(([room_id, { cursor }]) => [room_id, cursor]));
  }

  /** Begin again with what was kept. */
  reload(rooms: ReadonlyMap<string, RoomState>): void {
    this.disconnect();
    this.questions = [];
    this.state = { ...initial(ME), rooms };
    this.connect();
  }

  disconnect(): void {
    this.ready = false;
    this.server.disconnect();
    this.take([{ type: "disconnected" }]);
    this.questions = this.questions.filter(({ http }) => http);
    this.last = [];
  }

  /** Have some of what is on its way. */
  receive(count: number): void {
    const events = this.server.wire?.queue.splice(0, count) ?? [];
    if (events.length === 0) return;
    this.take(events);
    this.last = events;
    this.arrived.push(...events);
    for (const event of events) {
      this.server.received(event);
    }
    if (!events.some(({ type }) => type === "ready")) return;
    this.restored = false;
    this.ready = true;
    this.askRooms();
  }

  /** Have once more what came last. */
  repeat(): void {
    const repeatable = this.last.filter(
      (event) => "room_id" in event.data && !(event.type === "member" && event.data.seq == null),
    );
    const gone = this.last.some(({ type }) => type === "room_removed" || type === "ready");
    if (!gone && ![...this.state.rooms.values()].some(({ waiting }) => waiting !== null))
      expect(applied(this.state, repeatable)).toBe(this.state);
  }

  ask(http: boolean, compute: () => Change | null, about = ""): void {
    this.questions.push({ http, about, compute, answer: undefined });
  }

  askRooms(): void {
    for (const room_id of this.state.rooms.keys()) this.take([{ type: "tail_only", room_id }]);
    const { epoch } = this.state;
    this.ask(true, () => ({ type: "rooms", epoch, rooms: this.server.mine().map((log) => log.snapshot()) }));
  }

  askBefore(held: RoomState, from: number): void {
    const { room_id } = held.room;
    const { epoch } = this.state;
    this.askInRoom(room_id, () => {
      const answer = this.server.log(room_id).before(from, PAGE);
      const first = answer.has_more ? answer.messages[0]?.seq : 1;
      return page(held, epoch, first ?? 1, from - 1, answer);
    });
  }

  askAfter(held: RoomState, to: number): void {
    const { room, cursor } = held;
    const { epoch } = this.state;
    this.askInRoom(room.room_id, () => {
      const answer = this.server.log(room.room_id).after(to, PAGE);
      const last = answer.messages.at(-1)?.seq ?? to;
      return page(held, epoch, to + 1, answer.has_more ? last : Math.max(last, cursor), answer);
    });
  }

  askMembers({ room: { room_id } }: RoomState): void {
    const about = `members ${room_id}`;
    if (this.server.wire === null || this.questions.some((one) => one.about === about)) return;
    this.take([{ type: "members_asked", room_id }]);
    this.askInRoom(
      room_id,
      () => ({ type: "members", room_id, members: this.server.log(room_id).memberList() }),
      about,
    );
  }

  /** As the user opens the room: all that has arrived is read. */
  markRead({ room: { room_id }, cursor }: RoomState): void {
    this.askInRoom(room_id, () => {
      if (cursor > this.server.log(room_id).head) return null; // refused: the log is another
      return { type: "read", room_id, seq: cursor, unread: this.server.read(room_id, cursor) };
    });
  }

  private askInRoom(room_id: string, compute: () => Change | null, about = ""): void {
    if (this.server.wire === null) return;
    this.ask(false, () => (this.server.log(room_id).members.has(ME) ? compute() : null), about);
  }

  /** Let the server answer a question, without the answer's coming. */
  compute(at: number): void {
    const question = this.questions[at % this.questions.length];
    if (question !== undefined && question.answer === undefined) question.answer = question.compute();
  }

  deliver(at: number): void {
    const question = this.questions[at % this.questions.length];
    if (question === undefined) return;
    this.compute(at);
    this.questions = this.questions.filter((one) => one !== question);
    const { answer } = question;
    if (!answer) return;
    this.take([answer]);
    if (answer.type === "rooms" && answer.epoch !== this.state.epoch && this.ready) this.askRooms();
  }

  /**
   * The server is restored from a backup. The device had all that was there, and comes back before the log has grown
   * again: a cursor cannot tell another log that is as long as the one that it knew.
   */
  restore(): void {
    this.settle();
    this.disconnect();
    this.server.restore();
    this.connect();
    this.restored = true;
  }

  /** Until nothing is on its way. */
  settle(): void {
    if (this.server.wire === null) this.connect();
    while (true) {
      const { wire } = this.server;
      if (wire === null) throw new Error("connected");
      if (wire.queue.length > 0) this.receive(3);
      else if (!wire.ready) this.server.step(0, 4);
      else if (this.questions.length > 0) this.deliver(0);
      else return;
    }
  }

  /** Note where how many are unread cannot be known from what is held. */
  private guess(change: Change): void {
    if (change.type === "receipt" && change.data.username === ME)
      this.guessAt(change.data.room_id, change.data.read_seq);
    if (change.type === "read") this.guessAt(change.room_id, change.seq);
    if (change.type === "rooms")
      for (const { room_id, read_seq } of change.rooms) {
        const held = this.state.rooms.get(room_id);
        if (held !== undefined && read_seq < held.room.read_seq) this.guessAt(room_id, held.room.read_seq);
      }
  }

  private guessAt(room_id: string, seq: number): void {
    const held = this.state.rooms.get(room_id);
    if (held === undefined) return;
    if (held.waiting !== null) this.guessed.add(room_id); // it is counted when the snapshot has come
    if (seq >= held.room.last_seq) return;
    if (tailOf(held.segments).from > seq + 1 || held.cursor < held.room.last_seq) this.guessed.add(room_id);
  }

  /** What is held, against the server. */
  check(): void {
    const wanted = this.server.mine();
    expect([...this.state.rooms.keys()].sort()).toEqual(wanted.map((log) => log.room_id).sort());
    for (const log of wanted) {
      const held = this.state.rooms.get(log.room_id) as RoomState;
      const snapshot = log.snapshot();
      const unlogged = log.isPublic ? { members: held.room.members, role: held.room.role } : {};
      const guessed = this.guessed.has(log.room_id) ? { unread: held.room.unread } : {};
      expect(held.room).toEqual({ ...snapshot, ...unlogged, ...guessed });
      expect(held.cursor).toBe(log.head);
      expect(tailOf(held.segments).to).toBe(log.head);
      for (const [at, segment] of held.segments.entries()) {
        expect(segment.messages).toEqual(log.between(segment.from, segment.to));
        expect(segment.from).toBeGreaterThan((held.segments[at - 1]?.to ?? -1) + 1);
      }
      if (held.members !== null && !log.isPublic)
        expect([...held.members.values()].map(({ username, role }) => [username, role]).sort()).toEqual(
          [...log.members].sort(),
        );
    }
    this.take([{ type: "rooms", epoch: this.state.epoch, rooms: wanted.map((log) => log.snapshot()) }]);
    for (const log of wanted) expect(this.state.rooms.get(log.room_id)?.room).toEqual(log.snapshot());
  }

  /** Scroll to the beginning of every room. */
  loadAll(): void {
    for (const room_id of this.state.rooms.keys()) {
      while (true) {
        const held = this.state.rooms.get(room_id) as RoomState;
        const { from } = tailOf(held.segments);
        if (from === 1) break;
        this.askBefore(held, from);
        this.deliver(0);
      }
      expect(tailOf((this.state.rooms.get(room_id) as RoomState).segments).messages).toEqual(
        this.server.log(room_id).between(1, Number.POSITIVE_INFINITY),
      );
    }
  }
}

function page({ room }: RoomState, epoch: number, from: number, to: number, { messages }: History): Change {
  return { type: "page", epoch, room_id: room.room_id, page: { from, to, messages } };
}

const ACTS = [
  "say",
  "say",
  "say",
  "edit",
  "delete",
  "react",
  "title",
  "posting",
  "publish",
  "member",
  "role",
  "read",
  "me",
];
const STEPS = [
  ...["act", "act", "act", "act", "act", "receive", "receive", "receive", "step", "step", "compute", "deliver"],
  ...["before", "after", "around", "members", "read", "tail_only", "rooms", "disconnect", "connect"],
  ...["keep", "restore"],
];
export const script = fc.array(
  fc.record({
    step: fc.constantFrom(...STEPS),
    act: fc.constantFrom(...ACTS),
    room_id: fc.constantFrom("r1", "r2"),
    one: fc.nat(20),
    other: fc.nat(20),
  }),
  { maxLength: 80, size: "max" },
);
export type Step = typeof script extends fc.Arbitrary<(infer S)[]> ? S : never;

export function run(device: Device, { step, act, room_id, one, other }: Step): void {
  const { server } = device;
  const held = device.state.rooms.get(room_id);
  switch (step) {
    case "act":
      return server.act(room_id, act, one, other);
    case "receive":
      return device.receive(1 + (one % 6));
    case "step":
      return server.step(one, 1 + (other % 4));
    case "compute":
      return device.compute(one);
    case "deliver":
      return device.deliver(one);
    case "rooms":
      if (device.ready) device.askRooms();
      return;
    case "connect":
      if (server.wire === null) device.connect();
      return;
    case "disconnect":
      // That a log was restored is told by `ready` alone: who is cut off before it, and comes back when the log has
      // grown beyond the old cursor, cannot know.
      if (!device.restored) device.disconnect();
      return;
    case "keep":
      return server.keep();
    case "restore":
      return device.restore();
  }
  if (held === undefined) return;
  const segment = held.segments[one % held.segments.length];
  switch (step) {
    case "before":
      return device.askBefore(held, segment?.from ?? 1);
    case "after":
      return device.askAfter(held, segment?.to ?? 0);
    case "around":
      return device.askBefore(held, Math.min(1 + one, held.cursor + 1));
    case "members":
      return device.askMembers(held);
    case "read":
      return device.markRead(held);
    case "tail_only":
      return device.take([{ type: "tail_only", room_id }]);
  }
}
