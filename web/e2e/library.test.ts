/** The built client library in a browser: the page is built from its source, and reads no `messages()`. */
import { join } from "node:path";
import type { Client, connect, Room } from "@tidings/client";
import type { Page } from "playwright-core";
import { AWAY } from "./support/person.ts";
import { REPOSITORY } from "./support/server.ts";
import { expect, test } from "./support/world.ts";

const LIBRARY = join(REPOSITORY, "clients/javascript/dist");
const SOCKET_IO = join(REPOSITORY, "web/node_modules/socket.io-client/dist/socket.io.esm.min.js");
const HTML = `<!doctype html><link rel="icon" href="data:,">
<script type="importmap">{"imports": {"socket.io-client": "./socket.io-client.js"}}</script>
<script type="module">import { connect } from "./index.js"; globalThis.connect = connect;</script>`;

interface Tab {
  connect: typeof connect;
  client: Client;
  room: Room;
  /** Hands a message of the loop to the test. */
  consume(content: string): Promise<void>;
}

test("two tabs of one store write offline and reload: each message is sent once, in order, and consumed once", async ({
  person,
  account,
}) => {
  const [omar, diego] = await Promise.all([person("omar", { serviceWorkers: "block" }), account("diego")]);
  const topic = `library ${omar.name}`;
  const room_id = await diego.topic(topic);
  const { token } = await omar.account();
  await (await omar.account()).join(topic);
  const { context } = omar;
  omar.expects(AWAY);
  await context.route("**/library/*", (route) => {
    const name = new URL(route.request().url()).pathname.split("/").at(-1) ?? "";
    if (name === "") return route.fulfill({ contentType: "text/html", body: HTML });
    return route.fulfill({ path: name === "socket.io-client.js" ? SOCKET_IO : join(LIBRARY, name) });
  });
  const consumed: string[] = [];
  const consumers = new Set<Page>();
  await context.exposeBinding("consume", ({ page }, content: string) => {
    consumed.push(content);
    consumers.add(page);
  });
  const open = async (tab: Page) => {
    await tab.waitForFunction(() => "connect" in globalThis);
    await tab.evaluate(openTab, { token, room_id });
  };
  const tabs = [await context.newPage(), await context.newPage()] as const;
  for (const tab of tabs) {
    await tab.goto(`${omar.url}/library/`);
    await open(tab);
    await tab.waitForFunction(() => (globalThis as unknown as Tab).client.status.is === "online");
  }

  await context.setOffline(true);
  for (const tab of tabs)
    await tab.waitForFunction(() => (globalThis as unknown as Tab).client.status.is === "offline");
  const texts = Array.from({ length: 12 }, (_, at) => `offline ${at + 1}`);
  for (const [at, text] of texts.entries())
    await tabs[at % 2 === 0 ? 0 : 1].evaluate(
      async (text) => void (await (globalThis as unknown as Tab).room.enqueue(text)),
      text,
    );
  for (const tab of tabs) {
    await tab.reload();
    await open(tab);
  }
  for (const tab of tabs) await expect.poll(() => tab.evaluate(unsent)).toEqual(texts);
  expect([await diego.history(room_id), consumed]).toEqual([[], []]);

  await context.setOffline(false);
  await expect.poll(() => consumed).toEqual(texts);
  for (const tab of tabs) await expect.poll(() => tab.evaluate(unsent)).toEqual([]);
  await diego.say(room_id, "and");
  await expect.poll(() => consumed).toEqual([...texts, "and"]);
  expect((await diego.history(room_id)).map(({ content }) => content)).toEqual([...texts, "and"]);

  const [consumer] = consumers;
  expect(consumers.size).toBe(1);
  await consumer?.close();
  await diego.say(room_id, "so on");
  await expect.poll(() => consumed.at(-1)).toBe("so on");
  // The tab may have been closed before it had stored that it was done with the last one.
  expect([["so on"], ["and", "so on"]]).toContainEqual(consumed.slice(texts.length + 1));
});

/** Runs in a tab. */
async function openTab({ token, room_id }: { token: string; room_id: string }): Promise<void> {
  const tab = globalThis as unknown as Tab;
  tab.client = await tab.connect(location.origin, { token, device: "tabs", store: "tabs", wait: false });
  tab.room = tab.client.room({ room_id });
  void (async () => {
    for await (const { content } of tab.room.messages()) await tab.consume(content);
  })();
}

/** Runs in a tab. */
function unsent(): string[] {
  return (globalThis as unknown as Tab).client.unsent.map(({ content }) => content);
}
