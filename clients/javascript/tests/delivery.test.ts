import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { type Batch, MemoryStore } from "../src/store.ts";
import { Reader, statusOf, World } from "./support/world.ts";

const world = new World();

test("a message arrives, with its author, its seq and its content", async () => {
  const topic = world.name("noticias");
  const [omar, diego] = await Promise.all([world.client(world.name("omar")), world.client(world.name("diego"))]);
  await omar.actions.create({ topic_name: topic });
  const room = await diego.join(topic);
  const reader = new Reader(room);
  const sent = await omar.room({ topic_name: topic }).send("Hola");
  expect(sent).toMatchObject({ sender: omar.username, content: "Hola", topic_name: topic });
  expect(await reader.count(1)).toEqual(["Hola"]);
});

test("what was sent without a connection arrives when there is one, once and in order", async () => {
  const network = await world.bad();
  const topic = world.name("topic");
  const omar = await world.client(world.name("omar"), { url: network.url });
  await omar.actions.create({ topic_name: topic });
  const room = omar.room({ topic_name: topic });
  network.refuse();
  await statusOf(omar, "offline");
  const unsent = await Promise.all(["one", "two", "three"].map((content) => room.enqueue(content)));
  expect(omar.unsent.map(({ content, state }) => [content, state])).toEqual([
    ["one", "waiting"],
    ["two", "waiting"],
    ["three", "waiting"],
  ]);
  expect(await unsent[1]?.edit("TWO")).toBe(true);
  expect(await unsent[2]?.withdraw()).toBe(true);
  await expect(unsent[2]?.sent()).rejects.toMatchObject({ code: "withdrawn" });
  network.heal();
  await Promise.all([unsent[0]?.sent(), unsent[1]?.sent()]);
  expect(await world.logOf(topic)).toEqual(["one", "TWO"]);
  expect(omar.unsent).toEqual([]);
});

test("a message whose answer was lost is in the log once", async () => {
  const network = await world.bad();
  const topic = world.name("topic");
  const omar = await world.client(world.name("omar"), { url: network.url });
  await omar.actions.create({ topic_name: topic });
  network.swallow("down");
  const lost = network.swallowed();
  const sending = omar.room({ topic_name: topic }).send("once");
  await lost;
  expect(await world.logOf(topic)).toEqual(["once"]);
  expect(omar.unsent.map(({ state }) => state)).toEqual(["sending"]);
  network.heal();
  expect(await sending).toMatchObject({ content: "once", seq: 1 });
  expect(await world.logOf(topic)).toEqual(["once"]);
});

test("wherever the connection is cut, each message is sent once and received once, in order", async () => {
  const network = await world.bad();
  const topic = world.name("topic");
  const [omar, diego] = [world.name("omar"), world.name("diego")];
  const author = await world.client(omar, { url: network.url });
  const other = await world.client(diego, { url: network.url });
  await author.actions.create({ topic_name: topic });
  const reader = new Reader(await other.join(topic));
  const room = await author.join(topic);
  const expected: string[] = [];
  for (let piece = 1; piece <= 24; piece++) {
    network.cutBefore(piece);
    expected.push(`a${piece}`, `b${piece}`);
    await Promise.all([room.send(`a${piece}`), room.send(`b${piece}`)]);
    await reader.count(expected.length);
  }
  expect(reader.received).toEqual(expected);
  expect(await world.logOf(topic)).toEqual(expected);
});

test("a consumer gets what it missed while it was away, then the rest, each once", async () => {
  const topic = world.name("topic");
  const store = await world.path();
  const username = world.name("diego");
  const omar = await world.client(world.name("omar"));
  await omar.actions.create({ topic_name: topic });
  const room = omar.room({ topic_name: topic });
  let diego = await world.client(username, { store });
  const reader = new Reader(await diego.join(topic));
  await room.send("1");
  await room.send("2");
  await reader.count(2);
  await diego.close();
  await reader.ended;
  for (const content of ["3", "4", "5"]) await room.send(content);
  diego = await world.client(username, { store });
  const next = new Reader(diego.room({ topic_name: topic }));
  await room.send("6");
  await next.count(4);
  // "2" was being processed when the client was closed: its loop had not asked for the next one.
  expect(next.received.filter((content) => content !== "2")).toEqual(["3", "4", "5", "6"]);
});

test("a message that was processed does not come again, whatever loops are broken off", async () => {
  const topic = world.name("topic");
  const omar = await world.client(world.name("omar"));
  await omar.actions.create({ topic_name: topic });
  const room = await omar.join(topic);
  for (const content of ["1", "2", "3"]) await room.send(content);
  const seen: string[] = [];
  for await (const { content } of room.messages()) {
    seen.push(content);
    if (content === "2") break;
  }
  for await (const { content } of room.messages()) {
    seen.push(content);
    if (content === "3") break;
  }
  expect(seen).toEqual(["1", "2", "2", "3"]);
});

test("two loops of one consumer share its messages, two consumers get all of them", async () => {
  const topic = world.name("topic");
  const omar = await world.client(world.name("omar"));
  await omar.actions.create({ topic_name: topic });
  const room = await omar.join(topic);
  const readers = [new Reader(room), new Reader(room), new Reader(room, "other")];
  for (const content of ["1", "2", "3"]) await room.send(content);
  await Promise.all([readers[0]?.count(3), readers[2]?.count(3)]);
  expect(readers.map(({ received }) => received)).toEqual([["1", "2", "3"], [], ["1", "2", "3"]]);
});

test("a program that is killed sends what it had stored, once, when it runs again", async () => {
  const network = await world.bad();
  const topic = world.name("topic");
  const username = world.name("omar");
  const store = await world.path();
  const token = await world.server.token(username);
  await (await world.client(username)).actions.create({ topic_name: topic });
  const open = { do: "open", url: network.url, token: [token], store, device: "robot" };
  const first = new Driver(world);
  await first.do(open);
  network.swallow("down");
  const lost = network.swallowed();
  first.command({ do: "send", topic, content: "one" });
  first.command({ do: "send", topic, content: "two" });
  await lost;
  await first.kill();
  network.heal();
  const second = new Driver(world);
  await second.do(open);
  await second.do({ do: "send", topic, content: "three" });
  expect((await world.logOf(topic)).sort()).toEqual(["one", "three", "two"]);
});

test("a second process on a store is refused, and a killed one leaves it free", async () => {
  const store = await world.path();
  const token = await world.server.token(world.name("omar"));
  const open = { do: "open", url: world.server.url, token: [token], store, device: "robot" };
  const first = new Driver(world);
  expect(await first.do(open)).toEqual({ done: 1 });
  expect(await new Driver(world).do(open)).toEqual({ failed: 1, code: "store_in_use" });
  await expect(world.client("nobody", { store })).rejects.toMatchObject({ code: "store_in_use" });
  await first.kill();
  expect(await new Driver(world).do(open)).toEqual({ done: 1 });
});

test("a full store refuses a message, and what arrives then comes when there is room again", async () => {
  const topic = world.name("topic");
  const store = new FullStore();
  const omar = await world.client(world.name("omar"));
  await omar.actions.create({ topic_name: topic });
  const diego = await world.client(world.name("diego"), { store });
  const room = await diego.join(topic);
  const reader = new Reader(room);
  store.isFull = true;
  await expect(room.send("mine")).rejects.toMatchObject({ code: "store_failed" });
  await omar.room({ topic_name: topic }).send("1");
  await statusOf(diego, "offline");
  await omar.room({ topic_name: topic }).send("2");
  await statusOf(diego, "connecting");
  await statusOf(diego, "offline");
  store.isFull = false;
  expect(await reader.count(2)).toEqual(["1", "2"]);
});

test("after a restored backup a consumer goes on with what is new", async () => {
  const { server } = world;
  const topic = world.name("topic");
  const omar = await world.client(world.name("omar"));
  await omar.actions.create({ topic_name: topic });
  const diego = await world.client(world.name("diego"));
  const room = omar.room({ topic_name: topic });
  const reader = new Reader(await diego.join(topic));
  const timeline = await (await diego.join(topic)).timeline();
  await room.send("1");
  await reader.count(1);
  await server.stop();
  await server.backUp();
  await server.start();
  await room.send("2");
  await room.send("3");
  await reader.count(3);
  await server.stop();
  await server.restore();
  await server.start();
  await Promise.all([statusOf(omar, "online"), statusOf(diego, "online")]);
  for (const content of ["4", "5", "6"]) await room.send(content);
  expect(await reader.count(6)).toEqual(["1", "2", "3", "4", "5", "6"]);
  expect(timeline.state.messages.map(({ content }) => content)).toEqual(["1", "4", "5", "6"]);
});

test("an application's events arrive in order, once, with their names and data", async () => {
  type Shop = { "order.paid": { id: number } };
  const topic = world.name("orders");
  const shop = await world.client<Shop>(world.name("shop"));
  await shop.actions.create({ topic_name: topic });
  const desk = await world.client<Shop>(world.name("desk"));
  const room = await desk.join(topic);
  await shop.room({ topic_name: topic }).publish("order.paid", { id: 17 });
  await shop.room({ topic_name: topic }).publish("order.paid", { id: 18 });
  const ids: number[] = [];
  for await (const { data } of room.events("order.paid")) {
    ids.push(data.id);
    if (data.id === 18) break;
  }
  expect(ids).toEqual([17, 18]);
});

test("a refused message goes to the sender of `send`, and one that was enqueued stays until it is withdrawn", async () => {
  const omar = await world.client(world.name("omar"));
  const room = omar.room({ topic_name: world.name("nowhere") });
  await expect(room.send("lost")).rejects.toMatchObject({ code: "not_found", retryable: false });
  expect(omar.unsent).toEqual([]);
  const unsent = await room.enqueue("kept");
  await expect(unsent.sent()).rejects.toMatchObject({ code: "not_found" });
  expect(omar.unsent.map(({ state, error }) => [state, error?.code])).toEqual([["refused", "not_found"]]);
  expect(await omar.unsent[0]?.withdraw()).toBe(true);
  expect(omar.unsent).toEqual([]);
});

test("a token that the server refuses is replaced by a fresh one", async () => {
  const username = world.name("omar");
  const tokens = ["stale", await world.server.token(username)];
  const omar = await world.client(username, { token: () => tokens.shift() ?? "" });
  expect(omar.username).toBe(username);
  await expect(world.client(username, { token: "stale" })).rejects.toMatchObject({ code: "unauthenticated" });
});

test("a store of one user is not used for another", async () => {
  const store = await world.path();
  await (await world.client(world.name("omar"), { store })).close();
  await expect(world.client(world.name("diego"), { store })).rejects.toMatchObject({ code: "store_of_another" });
});

test("a closed client says so", async () => {
  const omar = await world.client(world.name("omar"));
  const room = omar.room({ topic_name: "noticias" });
  await omar.close();
  expect(omar.status).toEqual({ is: "closed", why: "closed", error: null });
  await expect(room.send("late")).rejects.toMatchObject({ code: "closed" });
  await expect(omar.actions.get_rooms({})).rejects.toMatchObject({ code: "closed" });
});

class FullStore extends MemoryStore {
  isFull = false;

  override async commit(batches: readonly Batch[]): Promise<boolean[]> {
    if (this.isFull) throw new Error("no space left");
    return super.commit(batches);
  }
}

/** The library in a process of its own. */
class Driver {
  private readonly process = spawn(
    process.execPath,
    [fileURLToPath(new URL("../../../tests/clients/driver.mjs", import.meta.url))],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  private readonly answers: Record<string, unknown>[] = [];
  private readonly waiting = new Set<() => void>();
  private commands = 0;

  constructor(world: World) {
    createInterface({ input: this.process.stdout }).on("line", (line) => {
      this.answers.push(JSON.parse(line));
      for (const wake of this.waiting) wake();
    });
    world.cleanups.push(() => this.kill());
  }

  command(command: object): number {
    this.process.stdin.write(`${JSON.stringify(command)}\n`);
    return ++this.commands;
  }

  async do(command: object): Promise<Record<string, unknown>> {
    const number = this.command(command);
    for (;;) {
      const answer = this.answers.find((one) => one.done === number || one.failed === number);
      if (answer !== undefined) return answer;
      await new Promise<void>((resolve) => this.waiting.add(resolve));
    }
  }

  async kill(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const gone = once(this.process, "close");
    this.process.kill("SIGKILL");
    await gone;
  }
}
