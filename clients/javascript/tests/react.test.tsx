import "./support/dom.ts";

import { createRoot } from "react-dom/client";
import { expect, test } from "vitest";
import type { Client } from "../src/client.ts";
import { useConnection, useMessages, usePresence, useRoom } from "../src/react.ts";
import { statusOf, World } from "./support/world.ts";

const world = new World();

function View({ client, topic }: { client: Client; topic: string }) {
  const status = useConnection(client);
  const { room, error } = useRoom(client, topic);
  const { messages, unsent } = useMessages(room);
  const online = usePresence(room).filter((member) => member.online);
  return (
    <div>
      {status.is} | {error?.code} | {online.map(({ username }) => username).join()} |{" "}
      {[...messages, ...unsent].map(({ content }) => content).join()}
    </div>
  );
}

/** Show a view; returns its text, and waits until it is as expected. */
function shown(client: Client, topic: string): (expected: RegExp) => Promise<void> {
  const element = document.createElement("div");
  const root = createRoot(element);
  world.cleanups.push(async () => root.unmount());
  root.render(<View client={client} topic={topic} />);
  return (expected) => expect.poll(() => element.textContent, { timeout: 20_000 }).toMatch(expected);
}

test("the hooks show messages, unsent ones, who is online, and the connection", async () => {
  const network = await world.bad();
  const topic = world.name("topic");
  const [omar, diego] = [world.name("omar"), world.name("diego")];
  const author = await world.client(omar);
  await author.actions.create({ topic_name: topic });
  await author.room({ topic_name: topic }).send("1");
  const client = await world.client(diego, { url: network.url });
  const text = shown(client, topic);
  await text(new RegExp(`^online \\|  \\| ${diego},${omar} \\| 1$`));
  const sent = await author.room({ topic_name: topic }).send("2");
  await text(/1,2$/);
  await author.room({ topic_name: topic }).edit(sent.id, "two");
  await text(/1,two$/);
  network.refuse();
  await statusOf(client, "offline");
  await client.room({ topic_name: topic }).enqueue("3");
  await text(/^(offline|connecting) \| {2}\| {2}\| 1,two,3$/);
  network.heal();
  await text(/^online \|.*\| 1,two,3$/);
  expect(await world.logOf(topic)).toEqual(["1", "two", "3"]);
});

test("a topic that cannot be joined has an error", async () => {
  const client = await world.client(world.name("omar"));
  const text = shown(client, world.name("nowhere"));
  await text(/^online \| not_found \| {2}\| $/);
});
