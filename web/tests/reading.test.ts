import { TidingsError } from "@tidings/client";
import { expect, test } from "vitest";
import { Reading } from "../src/reading.ts";
import { noAnswer } from "../src/session.ts";
import { applied, begun, initial, type State } from "../src/store.ts";
import { CHOSEN, message, room } from "./make.ts";

/** A reader with a server that answers as `answer` says, and time that passes when it is told to. */
function reader(answer: () => Promise<unknown> = async () => ({})) {
  const asked: [string, number][] = [];
  const later: (() => void)[] = [];
  const world = { ready: true, answer };
  const reading = new Reading({
    ask: (room_id, seq) => {
      asked.push([room_id, seq]);
      return world.answer();
    },
    ready: () => world.ready,
    later: (work) => later.push(work),
  });
  const pass = async () => {
    for (const work of later.splice(0)) work();
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { reading, asked, world, pass };
}

function withMessages(state: State, ...seqs: number[]): State {
  return applied(
    state,
    seqs.map((seq) => ({ type: "message", data: message(seq) }) as const),
  );
}

const EMPTY: State = { ...initial("me"), rooms: new Map([["r", begun(room())]]) };

test("messages in the visible room are read as they arrive, with one request for many", async () => {
  const { reading, asked, pass } = reader();
  reading.look("r");
  const one = reading.seen(withMessages(EMPTY, 1, 2));
  expect(one.rooms.get("r")?.room).toMatchObject({ unread: 0, read_seq: 2 });
  const two = reading.seen(withMessages(one, 3));
  expect(two.rooms.get("r")?.room).toMatchObject({ unread: 0, read_seq: 3 });
  expect(reading.seen(two)).toBe(two);
  await pass();
  expect(asked).toEqual([["r", 3]]);
  await pass();
  expect(asked).toHaveLength(1);
});

test("nothing is read while the page is hidden", async () => {
  const { reading, asked, pass } = reader();
  const state = withMessages(EMPTY, 1);
  expect(reading.seen(state)).toBe(state);
  reading.look("other");
  expect(reading.seen(state)).toBe(state);
  await pass();
  expect(asked).toEqual([]);
});

test("a message that has not arrived is not read", () => {
  const { reading } = reader();
  reading.look("r");
  const state = applied(EMPTY, [{ type: "rooms", epoch: 0, rooms: [room({ last_seq: 2, unread: 2 })] }]);
  expect(reading.seen(state)).toBe(state);
  expect(reading.seen(withMessages(state, 1, 2)).rooms.get("r")?.room).toMatchObject({ unread: 0, read_seq: 2 });
});

test("an unsent read marker is sent with the next connection", async () => {
  const { reading, asked, world, pass } = reader(() => Promise.reject(noAnswer("gone")));
  reading.look("r");
  reading.seen(withMessages(EMPTY, 1));
  await pass();
  world.answer = async () => ({});
  world.ready = false;
  await pass();
  expect(asked).toEqual([["r", 1]]);
  world.ready = true;
  reading.tell();
  await pass();
  expect(asked).toEqual([
    ["r", 1],
    ["r", 1],
  ]);
  await pass();
  expect(asked).toHaveLength(2);
});

test("a finally refused read marker is not sent again", async () => {
  const no = new TidingsError({ code: "not_found", message: "no such room" });
  const { reading, asked, pass } = reader(() => Promise.reject(no));
  reading.look("r");
  reading.seen(withMessages(EMPTY, 1));
  await pass();
  reading.tell();
  await pass();
  expect(asked).toHaveLength(1);
});

test("a room that is marked as unread while it is open stays so until the user comes back to it", async () => {
  const { reading, asked, pass } = reader();
  reading.look("r");
  const read = reading.seen(withMessages(EMPTY, 1, 2));
  await pass();
  const preferences = { ...CHOSEN, unread_from: 2 };
  const marked = applied(read, [{ type: "preferences", data: { room_id: "r", preferences, unread: 1 } }]);
  reading.look("r");
  expect(reading.seen(marked)).toBe(marked);
  reading.look(null);
  expect(reading.seen(marked)).toBe(marked);
  reading.look("r");
  expect(reading.seen(marked).rooms.get("r")?.room.unread).toBe(0);
  await pass();
  expect(asked).toEqual([
    ["r", 2],
    ["r", 2],
  ]);
});
