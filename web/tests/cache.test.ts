/** What this device keeps: rooms as they were at one moment, with which it goes on after a reload. */
import "fake-indexeddb/auto";
import { type Batch, IndexedDbStore, MemoryStore, type Store } from "@tidings/client";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Log } from "../../clients/javascript/src/log.ts";
import { Cache } from "../src/cache.ts";
import type { Message } from "../src/contract.gen.ts";
import type { Entry, ServerEvent } from "../src/events.ts";
import { applied, begun, type Change, initial, KEPT, type RoomState } from "../src/store.ts";
import { Device, run, script } from "./device.ts";
import { message, room } from "./make.ts";
import { ME } from "./server.ts";

/** A room after messages of these seqs. */
function held(...seqs: readonly number[]): RoomState {
  const said = (seq: number): Change => ({ type: "message", data: message(seq) });
  const state = { ...initial(ME), rooms: new Map([["r", begun(room())]]) };
  return applied(state, seqs.map(said)).rooms.get("r") as RoomState;
}

/** As a page that is opened now finds them. */
function reopened(store: Store): Promise<ReadonlyMap<string, RoomState>> {
  return new Cache(store).load(new Log(store), ME);
}

async function only(store: Store): Promise<RoomState> {
  const rooms = await reopened(store);
  expect(rooms.size).toBe(1);
  return [...rooms.values()][0] as RoomState;
}

const rooms = (...states: readonly RoomState[]) => new Map(states.map((state) => [state.room.room_id, state]));
const contents = ({ segments }: RoomState): string[] =>
  segments.flatMap(({ messages }) => messages.map(({ content }: Message) => content));

test("a room is restored completely, up to the newest message", async () => {
  const store = new MemoryStore();
  const ana = {
    username: "ana",
    role: "owner",
    online: true,
    last_seen: null,
    display_name: null,
    status: null,
    do_not_disturb_until: null,
    muted_until: null,
    picture: null,
  };
  const now: RoomState = {
    ...held(1, 2, 3),
    marks: new Map([["ana", { delivered_seq: 3, read_seq: 2 }]]),
    members: new Map([["ana", { ...ana, role: "owner" }]]),
  };
  await new Cache(store).write(rooms(now));
  expect(await reopened(store)).toEqual(rooms(now));
});

test("of a long room the newest messages and their start are kept", async () => {
  const store = new MemoryStore();
  await new Cache(store).write(rooms(held(...Array.from({ length: KEPT + 20 }, (_, at) => at + 1))));
  const kept = await only(store);
  expect(kept.segments).toMatchObject([{ from: 21, to: KEPT + 20 }]);
  expect(contents(kept)).toHaveLength(KEPT);
});

test("a room is never kept behind the state of another tab, unless its log was reset", async () => {
  const store = new MemoryStore();
  await new Cache(store).write(rooms(held(1, 2, 3)));
  const other = new Cache(store);
  await other.write(rooms(held(1, 2)));
  expect((await only(store)).cursor).toBe(3);
  other.overwrite(["r"]);
  await other.write(rooms(held(1)));
  expect((await only(store)).cursor).toBe(1);
});

test("a room that was left is not kept", async () => {
  const store = new MemoryStore();
  const cache = new Cache(store);
  await cache.write(rooms(held(1)));
  await cache.write(new Map());
  expect(await reopened(store)).toEqual(new Map());
});

test("rooms that could not be kept are kept with the next change, a reset one, too", async () => {
  let full = false;
  class Full extends MemoryStore {
    override commit(batches: readonly Batch[]): Promise<boolean[]> {
      return full
        ? Promise.reject(new DOMException("the disk is full", "QuotaExceededError"))
        : super.commit(batches);
    }
  }
  const store = new Full();
  const cache = new Cache(store);
  await cache.write(rooms(held(1, 2)));
  full = true;
  cache.overwrite(["r"]);
  const now = rooms(held(1));
  await cache.write(now);
  full = false;
  await cache.write(now);
  expect((await only(store)).cursor).toBe(1);
});

test("what arrived after the rooms were kept is shown after a reload, also changes of what was kept", async () => {
  const store = new MemoryStore();
  const log = new Log(store);
  await log.begin({ r: 2 });
  const arrive = (name: string, data: Entry) => log.receive([[name, data]]);
  const load = async () => {
    const again = new Log(store);
    await again.load();
    return new Cache(store).load(again, ME);
  };
  await arrive("message", message(3));
  const before = held(1, 2, 3);
  await new Cache(store).write(rooms(before));
  await arrive("message", message(4));
  await arrive("room_changed", { room_id: "r", seq: 5, username: "ana", title: "Writers" } as Entry);
  expect(await load()).toMatchObject(
    rooms({
      ...before,
      cursor: 5,
      segments: [{ from: 1, to: 5, messages: [1, 2, 3, 4].map((seq) => message(seq)) }],
      notes: [{ seq: 5, username: "ana", role: null, change: "title", title: "Writers" }],
      room: { ...before.room, last_seq: 5, last_message: message(4), title: "Writers" },
    }),
  );
  const changed = (seq: number, one: Message) =>
    arrive("message_edited", { room_id: "r", seq, message: one } as Entry);
  await changed(6, message(3, { content: "changed" }));
  await changed(7, message(1, { content: "changed, and not among the rows" }));
  await changed(8, message(4, { content: "changed" }));
  const [three, four] = [3, 4].map((seq) => message(seq, { content: "changed" }));
  const now = (await load()).get("r");
  expect(now).toMatchObject({ cursor: 8, segments: [{ from: 3, to: 8, messages: [three, four] }] });
  expect(now?.room.last_message).toEqual(four);
  await log.reset(["r"]);
  expect(await load()).toEqual(new Map());
});

test("a draft is restored until it is sent", async () => {
  const cache = new Cache(new MemoryStore());
  expect(await cache.draft("r")).toBe("");
  await cache.keepDraft("r", "dear");
  expect(await cache.draft("r")).toBe("dear");
  await cache.keepDraft("r", "");
  expect(await cache.draft("r")).toBe("");
});

test("after signing out nothing of the user is left, even with another tab open", async () => {
  const store = await IndexedDbStore.open("web ana");
  await new Cache(store).write(rooms(held(1)));
  await IndexedDbStore.delete("web ana");
  const next = await IndexedDbStore.open("web ana");
  expect(await next.range("")).toEqual([]);
  await next.close();
});

/** A device whose events go through the library's log, as in the page. */
class Stored extends Device {
  readonly store = new MemoryStore();
  log = new Log(this.store);
  private cache = new Cache(this.store);

  /** The log's, which are the state's too, once it has what has arrived. */
  protected override cursors(): Map<string, number> {
    return new Map([...super.cursors(), ...(this.arrived.length === 0 ? (this.log?.cursors ?? []) : [])]);
  }

  /** Store what has arrived. The page keeps its rooms later, if at all. */
  async record(): Promise<void> {
    if (this.server.wire !== null) await this.log.begin(Object.fromEntries(super.cursors()));
    for (const event of this.arrived.splice(0)) await this.storeOne(event);
  }

  private async storeOne(event: ServerEvent): Promise<void> {
    if (event.type === "room_removed") return this.log.leave(event.data.room_id);
    if (event.type === "ready") {
      await this.log.reset(event.data.reset);
      this.cache.overwrite(event.data.reset);
      for (const room_id of event.data.reset)
        await this.log.restore(room_id, this.server.log(room_id).before(1e9, 200));
    } else if ("seq" in event.data && event.data.seq != null)
      await this.log.receive([[event.type, event.data as Entry]]);
  }

  keep(): Promise<void> {
    return this.cache.write(this.state.rooms);
  }

  async again(): Promise<void> {
    this.log = new Log(this.store);
    await this.log.load();
    this.cache = new Cache(this.store);
    this.reload(await this.cache.load(this.log, ME));
  }
}

test("a device that is reloaded at any moment continues without a gap or a repeat", async () => {
  // Seldom, so that much happens in between.
  const moments = fc.array(fc.constantFrom("keep", "keep", "reload", ...Array(17).fill("")), { maxLength: 80 });
  await fc.assert(
    fc.asyncProperty(script, moments, async (steps, moments) => {
      const device = new Stored();
      await device.record();
      await device.keep();
      for (const [at, step] of steps.entries()) {
        run(device, step);
        // A log that was restored is told of by `ready` alone, and has to be kept before the device is reloaded.
        if (step.step === "restore") device.settle();
        await device.record();
        if (moments[at] === "keep" || step.step === "restore") await device.keep();
        if (moments[at] === "reload") await device.again();
      }
      device.settle();
      device.check();
      device.loadAll();
    }),
    { numRuns: Number(process.env.RUNS ?? 40) },
  );
});
