/** What this device keeps: rooms as they were at one moment, with which it goes on after a reload. */
import "fake-indexeddb/auto";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Message } from "../src/contract.gen.ts";
import { Database } from "../src/database.ts";
import { applied, begun, type Change, initial, KEPT, type RoomState } from "../src/store.ts";
import { Device, run, script } from "./device.ts";
import { message, room } from "./make.ts";

const NONE: ReadonlySet<string> = new Set();

async function opened(): Promise<Database> {
  return Database.open(`user${Math.random()}`);
}

/** A room after messages of these seqs. */
function held(...seqs: readonly number[]): RoomState {
  const said = (seq: number): Change => ({ type: "message", data: message(seq) });
  const state = { ...initial("me"), rooms: new Map([["r", begun(room())]]) };
  return applied(state, seqs.map(said)).rooms.get("r") as RoomState;
}

async function only(database: Database): Promise<RoomState> {
  const rooms = await database.rooms();
  expect(rooms).toHaveLength(1);
  return rooms[0] as RoomState;
}

const contents = ({ segments }: RoomState): string[] =>
  segments.flatMap(({ messages }) => messages.map(({ content }: Message) => content));

test("a room is restored completely, up to the newest message", async () => {
  const database = await opened();
  const now: RoomState = {
    ...held(1, 2, 3),
    marks: new Map([["ana", { delivered_seq: 3, read_seq: 2 }]]),
    members: new Map([
      [
        "ana",
        { username: "ana", role: "owner", online: true, last_seen: null, display_name: null, muted_until: null },
      ],
    ]),
  };
  await database.keep([now], [], NONE);
  expect(await database.rooms()).toEqual([now]);
});

test("of a long room the newest messages and their start are stored", async () => {
  const database = await opened();
  await database.keep([held(...Array.from({ length: KEPT + 20 }, (_, at) => at + 1))], [], NONE);
  const kept = await only(database);
  expect(kept.segments).toMatchObject([{ from: 21, to: KEPT + 20 }]);
  expect(contents(kept)).toHaveLength(KEPT);
});

test("a room is never stored behind the state of another tab", async () => {
  const database = await opened();
  await database.keep([held(1, 2, 3)], [], NONE);
  await database.keep([held(1, 2)], [], NONE);
  expect((await only(database)).cursor).toBe(3);
  expect(contents(await only(database))).toHaveLength(3);
});

test("a room whose log was reset restarts where the server says", async () => {
  const database = await opened();
  await database.keep([held(1, 2, 3)], [], NONE);
  await database.keep([held(1)], [], new Set(["r"]));
  expect((await only(database)).cursor).toBe(1);
  await database.keep([held(1, 2)], [], NONE);
  expect((await only(database)).cursor).toBe(2);
});

test("a room that was left is deleted", async () => {
  const database = await opened();
  await database.keep([held(1)], [], NONE);
  await database.keep([], ["r"], NONE);
  expect(await database.rooms()).toEqual([]);
});

test("rooms are stored all or none", async () => {
  const database = await opened();
  const bad = { ...held(1), marks: new Map([["ana", (() => undefined) as never]]) }; // cannot be written
  await expect(database.keep([{ ...held(1), room: room({ room_id: "q" }) }, bad], [], NONE)).rejects.toThrow();
  expect(await database.rooms()).toEqual([]);
});

test("a draft is restored until it is sent", async () => {
  const database = await opened();
  expect(await database.draft("r")).toBe("");
  await database.keepDraft("r", "dear");
  expect(await database.draft("r")).toBe("dear");
  await database.keepDraft("r", "");
  expect(await database.draft("r")).toBe("");
});

test("after signing out nothing of the user is left, even with another tab open", async () => {
  const name = `user${Math.random()}`;
  const database = await Database.open(name);
  await database.keep([held(1)], [], NONE);
  await database.keepDraft("r", "dear");
  await Database.forget(name);
  const next = await Database.open(name);
  expect(await next.rooms()).toEqual([]);
  expect(await next.draft("r")).toBe("");
});

test("a device that is reloaded at any moment continues without a gap or a repeat", async () => {
  await fc.assert(
    fc.asyncProperty(
      script,
      fc.array(fc.constantFrom("keep", "reload", ""), { maxLength: 80 }),
      async (steps, moments) => {
        const database = await opened();
        const device = new Device();
        let kept = device.state.rooms;
        const keep = async () => {
          const now = device.state.rooms;
          const gone = [...kept.keys()].filter((room_id) => !now.has(room_id));
          await database.keep(now.values(), gone, device.takeReset());
          kept = now;
        };
        await keep();
        for (const [at, step] of steps.entries()) {
          run(device, step);
          // A log that was restored is told of by `ready` alone, and has to be kept before the device is reloaded.
          if (step.step === "restore") device.settle();
          if (moments[at] === "keep" || step.step === "restore") await keep();
          if (moments[at] === "reload") {
            device.reload(await database.rooms());
            kept = device.state.rooms;
          }
        }
        device.settle();
        device.check();
        device.loadAll();
        database.close();
      },
    ),
    { numRuns: Number(process.env.RUNS ?? 40) },
  );
});
