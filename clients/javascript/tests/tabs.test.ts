import "fake-indexeddb/auto";
import { expect, test } from "vitest";
import type { Client } from "../src/client.ts";
import { connect } from "../src/index.ts";
import { Reader, statusOf, World } from "./support/world.ts";

const world = new World();

async function tab(username: string, url = world.server.url): Promise<Client> {
  const client = await connect(url, { token: () => world.server.token(username), store: username });
  world.cleanups.push(() => client.close());
  return client;
}

test("tabs of one store share an outbox: what one tab stored without a connection another sends, once", async () => {
  const network = await world.bad();
  const [topic, username] = [world.name("topic"), world.name("omar")];
  const offline = await tab(username, network.url);
  await offline.actions.create({ topic_name: topic });
  network.refuse();
  await statusOf(offline, "offline");
  const room = offline.room({ topic_name: topic });
  const unsent = await Promise.all(["1", "2", "3"].map((content) => room.enqueue(content)));
  const online = await tab(username);
  const sent = await Promise.all(unsent.map((one) => one.sent()));
  expect(sent.map(({ content }) => content).sort()).toEqual(["1", "2", "3"]);
  expect((await world.logOf(topic)).sort()).toEqual(["1", "2", "3"]);
  network.heal();
  await statusOf(offline, "online");
  expect([online.unsent, offline.unsent]).toEqual([[], []]);
});

test("a file that one tab stored without a connection another uploads, and both show how far it is", async () => {
  const network = await world.bad();
  const [topic_name, username] = [world.name("topic"), world.name("omar")];
  const offline = await tab(username, network.url);
  await offline.actions.create({ topic_name });
  network.refuse();
  await statusOf(offline, "offline");
  const seen: number[] = [];
  offline.onUnsent(() => seen.push(...offline.unsent.flatMap(({ files }) => files.map(({ sent }) => sent))));
  const content = new Blob([new Uint8Array(700_000)]);
  const unsent = await offline.room({ topic_name }).enqueue("", { files: [{ content }] });
  const online = await tab(username);
  expect((await unsent.sent()).files).toMatchObject([{ size: 700_000 }]);
  expect(seen).toContain(700_000);
  for (const prefix of ["o/", "b/", "u/"]) expect(await online.store.range(prefix)).toEqual([]);
});

test("tabs of one store send at the same time, and each message is in the log once, in the order of its tab", async () => {
  const [topic, username] = [world.name("topic"), world.name("omar")];
  const tabs = [await tab(username), await tab(username)] as const;
  await tabs[0].actions.create({ topic_name: topic });
  const numbers = Array.from({ length: 10 }, (_, at) => at);
  await Promise.all(
    tabs.map(async (client, which) => {
      for (const n of numbers) await client.room({ topic_name: topic }).send(`${which} ${n}`);
    }),
  );
  const log = await world.logOf(topic);
  for (const which of [0, 1])
    expect(log.filter((content) => content.startsWith(`${which} `))).toEqual(numbers.map((n) => `${which} ${n}`));
});

test("each tab shows every message once, and a consumer gets it in one of them", async () => {
  const topic = world.name("topic");
  const username = world.name("diego");
  const omar = await world.client(world.name("omar"));
  await omar.actions.create({ topic_name: topic });
  const tabs = [await tab(username), await tab(username)] as const;
  const rooms = await Promise.all(tabs.map((client) => client.join(topic)));
  const timelines = await Promise.all(rooms.map((room) => room.timeline()));
  const readers = rooms.map((room) => new Reader(room));
  for (const content of ["1", "2", "3"]) await omar.room({ topic_name: topic }).send(content);
  await Promise.race(readers.map((reader) => reader.count(3)));
  expect(readers.flatMap(({ received }) => received)).toEqual(["1", "2", "3"]);
  for (const timeline of timelines) {
    while (timeline.state.messages.length < 3)
      await new Promise<void>((resolve) => {
        const stop = timeline.subscribe(() => {
          stop();
          resolve();
        });
      });
    expect(timeline.state.messages.map(({ content }) => content)).toEqual(["1", "2", "3"]);
  }
});

test("when the tab that reads is closed, another goes on where it was", async () => {
  const topic = world.name("topic");
  const username = world.name("diego");
  const omar = await world.client(world.name("omar"));
  await omar.actions.create({ topic_name: topic });
  const [one, two] = [await tab(username), await tab(username)];
  const first = new Reader(await one.join(topic));
  const room = omar.room({ topic_name: topic });
  await room.send("1");
  await first.count(1);
  const second = new Reader(await two.join(topic));
  await room.send("2");
  await first.count(2);
  await one.close();
  await first.ended;
  await room.send("3");
  while (second.received.at(-1) !== "3") await second.count(second.received.length + 1);
  expect([...new Set([...first.received, ...second.received])]).toEqual(["1", "2", "3"]);
});
