import "fake-indexeddb/auto";
import { setImmediate } from "node:timers/promises";
import { expect, test } from "vitest";
import { isClosed, noAnswer, TidingsError } from "../src/errors.ts";
import { IndexedDbStore } from "../src/indexedDb.ts";
import { Outbox, type OutboxOptions, type Unsent } from "../src/outbox.ts";
import { MemoryStore, type Store } from "../src/store.ts";
import type { Message } from "../src/types.ts";

const ROOM = { room_id: "r" };

type Send = (request: { content: string; client_id: string }) => Promise<void>;

function options(store: Store, send: Send): OutboxOptions {
  return {
    store,
    isOnline: () => true,
    roomIdOf: () => undefined,
    server: { ask: () => Promise.reject(noAnswer("no server")), at: (url) => ({ url, token: "" }) },
    changed: () => undefined,
    sent: async () => undefined,
    send: async (request) => {
      await send(request);
      return { ...request, seq: 1 } as unknown as Message;
    },
  };
}

function outbox(store: Store, send: Send): Outbox {
  return new Outbox(options(store, send));
}

test("two outboxes on one store send one message at a time, each once, in order", async () => {
  const store = new MemoryStore();
  const sent: string[] = [];
  let running = 0;
  const send = async ({ content }: { content: string }) => {
    expect(++running).toBe(1);
    await setImmediate();
    running--;
    sent.push(content);
  };
  const [one, two] = [outbox(store, send), outbox(store, send)];
  const numbers = Array.from({ length: 10 }, (_, at) => String(at));
  for (const content of numbers) await one.add(ROOM, { content }, false);
  two.wake();
  while (sent.length < numbers.length) await setImmediate();
  await one.close();
  await two.close();
  expect(sent).toEqual(numbers);
  expect(await store.range("o/")).toEqual([]);
});

test("messages that are added before earlier ones are stored keep their order", async () => {
  const store = await IndexedDbStore.open("at once");
  const box = new Outbox({ ...options(store, async () => undefined), isOnline: () => false });
  const numbers = Array.from({ length: 30 }, (_, at) => String(at));
  const adding: Promise<Unsent>[] = [];
  for (const content of numbers) {
    adding.push(box.add(ROOM, { content }, false));
    await setImmediate();
  }
  await Promise.all(adding);
  expect(box.unsent.map(({ content }) => content)).toEqual(numbers);
  await box.load();
  expect(box.unsent.map(({ content }) => content)).toEqual(numbers);
  await box.close();
});

test("nothing is sent before the time that the server named, and then the same message first", async () => {
  const times: number[] = [];
  const sent: string[] = [];
  const box = outbox(new MemoryStore(), async ({ content }) => {
    times.push(performance.now());
    if (times.length === 1)
      throw new TidingsError({ code: "rate_limited", message: "", retryable: true, details: { retry_after: 0.2 } });
    sent.push(content);
  });
  const first = await box.add(ROOM, { content: "1" }, false);
  const second = await box.add(ROOM, { content: "2" }, false);
  box.wake();
  await Promise.all([first.sent(), second.sent()]);
  expect(sent).toEqual(["1", "2"]);
  expect((times[1] ?? 0) - (times[0] ?? 0)).toBeGreaterThan(190);
  await box.close();
});

test("a message that was tried keeps its content and its client_id", async () => {
  const requests: { content: string; client_id: string }[] = [];
  const box = outbox(new MemoryStore(), async (request) => {
    requests.push(request);
    if (requests.length === 1) throw noAnswer("no answer");
  });
  const unsent = await box.add(ROOM, { content: "first" }, true);
  while (requests.length === 0) await setImmediate();
  expect(await unsent.edit("second")).toBe(false);
  expect(await unsent.withdraw()).toBe(false);
  await unsent.sent();
  expect(requests[1]).toEqual(requests[0]);
  await box.close();
});

test("a message stays if the client is closed in the moment in which it is to be sent", async () => {
  const store = new MemoryStore();
  let closing: Promise<void> | undefined;
  const box = outbox(store, async () => {
    closing = box.close();
    throw isClosed();
  });
  const unsent = await box.add(ROOM, { content: "kept" }, false);
  await expect(unsent.sent()).rejects.toMatchObject({ code: "closed" });
  await closing;
  const next = outbox(store, async () => undefined);
  await next.load();
  next.wake();
  expect(await next.unsent[0]?.sent()).toMatchObject({ content: "kept" });
  await next.close();
});
