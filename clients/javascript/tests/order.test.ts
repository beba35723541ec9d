/** For applications with a state of their own, made of answers and events: where they begin, and what comes first. */
import { setTimeout } from "node:timers/promises";
import { expect, test } from "vitest";
import { TidingsError } from "../src/errors.ts";
import { type Batch, MemoryStore } from "../src/store.ts";
import { Reader, World } from "./support/world.ts";

const world = new World();

class SlowStore extends MemoryStore {
  override async commit(batches: readonly Batch[]): Promise<boolean[]> {
    await setTimeout(30);
    return super.commit(batches);
  }
}

test("events that arrived before an answer are handed over before it", async () => {
  const username = world.name("omar");
  const topic = world.name("topic");
  const [writer, reader] = [await world.client(username), await world.client(username, { store: new SlowStore() })];
  await writer.actions.create({ topic_name: topic });
  const room = await reader.join(topic);
  const handed: number[] = [];
  reader.on("message", ({ seq }) => handed.push(seq));
  const packets: number[] = [];
  const { socket } = reader.connection as unknown as {
    socket: { prependAny(heard: (...event: unknown[]) => void): void };
  };
  socket.prependAny((name, data) => name === "message" && packets.push((data as { seq: number }).seq));
  for (let count = 1; count <= 20; count++) {
    const arrived = new Promise<void>((resolve) => socket.prependAny(() => resolve()));
    await writer.room({ topic_name: topic }).send(`${count}`);
    await arrived;
    const before = [...packets];
    await (count % 2 === 0 ? room.read(count) : reader.actions.get_profile({ username }));
    expect(handed.slice(0, before.length)).toEqual(before);
  }
  expect(packets).toHaveLength(20);
});

test("rooms that an application has loaded begin where it says, and others where the user's devices are", async () => {
  const username = world.name("omar");
  const omar = await world.client(username, { device: "first" });
  const [known, other] = [world.name("known"), world.name("other")];
  for (const topic_name of [known, other]) await omar.actions.create({ topic_name });
  const diego = await world.client(world.name("diego"));
  for (const topic of [known, other]) await diego.join(topic);
  await omar.close();
  for (const topic of [known, other])
    for (const content of ["1", "2", "3"]) await diego.room({ topic_name: topic }).send(content);
  const { room_id } = await diego.join(known);
  let asked = 0;
  const store = new MemoryStore();
  const cursors = () => ({ [room_id ?? ""]: ++asked === 1 ? 2 : 0 });
  const again = () => world.client(username, { device: "second", store, cursors });
  const second = await again();
  expect(await new Reader(await second.join(known)).count(1)).toEqual(["3"]);
  expect(await new Reader(await second.join(other)).count(3)).toEqual(["1", "2", "3"]);
  await second.close();
  const third = await again();
  const reader = new Reader(await third.join(known), "anew");
  await diego.room({ topic_name: known }).send("4");
  expect(await reader.count(2)).toEqual(["3", "4"]);
});

test("a client whose application gets no token closes with the application's reason", async () => {
  const over = new TidingsError({ code: "token_expired", message: "sign in again" });
  await expect(world.client(world.name("omar"), { token: () => Promise.reject(over) })).rejects.toBe(over);
  let tries = 0;
  const token = () => (++tries < 3 ? Promise.reject(new Error("no network")) : world.server.token("lucia"));
  expect((await world.client("lucia", { token })).status).toEqual({ is: "online" });
});
