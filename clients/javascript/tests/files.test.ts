import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import type { Client } from "../src/client.ts";
import { connect, type Message, type Unsent } from "../src/node.ts";
import { statusOf, World } from "./support/world.ts";

const MAX = 20_000_000;
/** Of one user, in `MAX` */
const QUOTA = 5;
const world = new World({ TIDINGS_FILE_BYTES: `${MAX}`, TIDINGS_QUOTAS: `files=${QUOTA * MAX}` });

/** Whether the files of a message have these bytes. */
async function has(client: Client, message: Message, contents: readonly Uint8Array[]): Promise<boolean> {
  const { files } = await client.actions.get_files({ file_ids: (message.files ?? []).map(({ id }) => id) });
  const got = await Promise.all(
    files.map(async ({ url }) => Buffer.from(await (await fetch(`${world.server.url}/${url}`)).arrayBuffer())),
  );
  return got.length === contents.length && got.every((bytes, at) => bytes.equals(contents[at] as Uint8Array));
}

/** The name of a topic that the user has made. */
async function topicOf(client: Client): Promise<string> {
  const topic_name = world.name("topic");
  await client.actions.create({ topic_name });
  await client.join(topic_name);
  return topic_name;
}

/** Resolves when something that `onUnsent` tells of is so. */
function until(client: Client, isSo: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    const look = () => {
      if (!isSo()) return;
      stop();
      resolve();
    };
    const stop = client.onUnsent(look);
    look();
  });
}

/** The uploads that the client has begun, by N/F. */
async function uploadsOf(client: Client): Promise<{ readonly id: string }[]> {
  return (await client.store.range("u/")).map(([, upload]) => upload as { id: string });
}

/** The status of an upload at the server. */
async function statusAt(username: string, id: string): Promise<number> {
  const headers = { authorization: `Bearer ${await world.server.token(username)}` };
  return (await fetch(`${world.server.url}/api/uploads/${id}`, { method: "HEAD", headers })).status;
}

async function nothingIsLeft(client: Client): Promise<void> {
  while ((await client.store.range("u/")).length > 0) await setTimeout(20);
  for (const prefix of ["o/", "t/", "b/"]) expect(await client.store.range(prefix)).toEqual([]);
}

test("a message arrives with its files, with their names and alternative texts", async () => {
  const omar = await world.client(world.name("omar"));
  const room = omar.room({ topic_name: await topicOf(omar) });
  const bytes = [randomBytes(1_300_000), Buffer.from("Hola")] as const;
  const sent = await room.send("", {
    files: [
      { content: new File([bytes[0]], "one.bin") },
      { content: new Blob([bytes[1]]), name: "two.txt", alt: "a greeting" },
    ],
  });
  expect(sent.files).toMatchObject([
    { name: "one.bin", size: 1_300_000, alt: null },
    { name: "two.txt", size: 4, alt: "a greeting", type: "text/plain" },
  ]);
  expect(await has(omar, sent, bytes)).toBe(true);
  await nothingIsLeft(omar);
});

test("a file arrives whole through connections that are cut; its room waits for it in order, another room does not", async () => {
  const network = await world.bad();
  const omar = await world.client(world.name("omar"), { url: network.url });
  const [topic, other] = [await topicOf(omar), await topicOf(omar)];
  network.refuse();
  await statusOf(omar, "offline");
  const content = randomBytes(4_000_000);
  const acknowledged: string[] = [];
  const enqueue = async (topic_name: string, text: string, files?: readonly { content: Blob }[]) => {
    const unsent = await omar.room({ topic_name }).enqueue(text, files === undefined ? {} : { files });
    return unsent.sent().then((message) => {
      acknowledged.push(text);
      return message;
    });
  };
  const sending = [
    enqueue(topic, "before"),
    enqueue(topic, "file", [{ content: new Blob([content]) }]),
    enqueue(topic, "after"),
    enqueue(other, "elsewhere"),
  ];
  let connections = 0;
  const seen: number[] = [];
  omar.onUnsent(() => seen.push(...omar.unsent.flatMap(({ files }) => files.map(({ sent }) => sent))));
  const stop = omar.onStatus(({ is }) => {
    if (is === "online" && ++connections > 0) network.cutBefore(16);
  });
  network.heal();
  const [, sent] = await Promise.all(sending);
  stop();
  network.cutBefore(Number.POSITIVE_INFINITY);
  expect(acknowledged).toEqual(["before", "elsewhere", "file", "after"]);
  expect(connections).toBeGreaterThan(5);
  expect(seen.some((count) => count > 0 && count < content.length)).toBe(true);
  expect(seen).toEqual([...seen].sort((one, next) => one - next));
  expect(await world.logOf(topic)).toEqual(["before", "file", "after"]);
  expect(await has(omar, sent as Message, [content])).toBe(true);
  await nothingIsLeft(omar);
});

test("files that were enqueued offline outlive the process, and leave nothing when they are sent", async () => {
  const username = world.name("omar");
  const topic_name = await topicOf(await world.client(username));
  const store = await world.path();
  const library = fileURLToPath(new URL("../dist/node.js", import.meta.url));
  const program = `import { connect } from ${JSON.stringify(library)};
    const client = await connect("http://127.0.0.1:9", { token: "none", store: process.argv[1], wait: false });
    const content = new Blob([new Uint8Array(700_000).fill(7)], { type: "image/png" });
    await client.room({ topic_name: process.argv[2] }).enqueue("file", { files: [{ content, name: "seven" }] });
    console.log("stored");`;
  const process_ = spawn(process.execPath, ["--input-type=module", "-e", program, store, topic_name]);
  await once(createInterface({ input: process_.stdout }), "line");
  process_.kill("SIGKILL");
  await once(process_, "close");

  const network = await world.bad();
  network.refuse();
  const token = () => world.server.token(username);
  const client = await connect(network.url, { token, store, wait: false });
  world.cleanups.push(() => client.close());
  const [unsent] = client.unsent as [Unsent];
  expect(unsent.files).toMatchObject([{ name: "seven", type: "image/png", size: 700_000, alt: null, sent: 0 }]);
  expect((await unsent.file(0))?.size).toBe(700_000);
  network.heal();
  const sent = await unsent.sent();
  expect(await has(client, sent, [new Uint8Array(700_000).fill(7)])).toBe(true);
  await nothingIsLeft(client);
  await client.close();
  expect(await readdir(store.replace("/state.db", ""))).toEqual(["state.db"]);
});

test("a file that is removed while it is uploaded is not sent, and neither is a withdrawn message", async () => {
  const network = await world.bad();
  const omar = await world.client(world.name("omar"), { url: network.url });
  const topic_name = await topicOf(omar);
  const room = omar.room({ topic_name });
  const large = { content: new Blob([new Uint8Array(MAX)]) };
  const small = { content: new Blob(["small"]), name: "small" };
  const isUnderWay = () => omar.unsent.some(({ files }) => (files[0]?.sent ?? 0) > 0);

  const cancelled = await room.enqueue("one", { files: [large, small] });
  await until(omar, isUnderWay);
  const [first] = await uploadsOf(omar);
  expect(await cancelled.withoutFile(0)).toBe(true);
  expect(await cancelled.edit("ONE")).toBe(true);
  network.passed = 0;
  expect((await cancelled.sent()).files).toMatchObject([{ name: "small" }]);
  expect(network.passed).toBeLessThan(50); // pieces of up to 64 KB: the rest of the large one did not go

  const withdrawn = await room.enqueue("two", { files: [large] });
  await until(omar, isUnderWay);
  const [second] = await uploadsOf(omar);
  expect(await withdrawn.withdraw()).toBe(true);
  await expect(withdrawn.sent()).rejects.toMatchObject({ code: "withdrawn" });

  const both = await room.enqueue("three", { files: [large, large, small] });
  expect(await Promise.all([both.withoutFile(1), both.withoutFile(0)])).toEqual([true, true]);
  expect((await both.sent()).files).toMatchObject([{ name: "small" }]);

  const emptied = await room.enqueue("", { files: [large] });
  expect(await emptied.withoutFile(0)).toBe(true);
  await expect(emptied.sent()).rejects.toMatchObject({ code: "withdrawn" });
  await nothingIsLeft(omar);
  for (const upload of [first, second]) expect(await statusAt(omar.username, upload?.id ?? "")).toBe(404);
  expect(await world.logOf(topic_name)).toEqual(["ONE", "three"]);
});

test("a file that the server refuses refuses its message, and the next ones go", async () => {
  const omar = await world.client(world.name("omar"));
  const topic_name = await topicOf(omar);
  const room = omar.room({ topic_name });
  const large = { content: new Blob([new Uint8Array(MAX + 1)]) };
  const small = { content: new Blob(["small"]), name: "small" };
  await expect(room.send("one", { files: [small, large] })).rejects.toMatchObject({ code: "too_large" });
  await nothingIsLeft(omar);
  const unsent = await room.enqueue("two", { files: [large, small] });
  await room.send("three");
  expect(omar.unsent).toMatchObject([{ state: "refused", error: { code: "too_large" } }]);
  expect(await unsent.retry()).toBe(true);
  await expect(unsent.sent()).rejects.toMatchObject({ code: "too_large" });
  expect(await unsent.withoutFile(0)).toBe(true);
  expect((await (omar.unsent[0] as Unsent).sent()).files).toMatchObject([{ name: "small" }]);
  await nothingIsLeft(omar);
  expect(await world.logOf(topic_name)).toEqual(["three", "two"]);
});

test("a message that was refused for its file is sent with it when there is room and it is sent again", async () => {
  const omar = await world.client(world.name("omar"));
  const room = omar.room({ topic_name: await topicOf(omar) });
  const others = await Promise.all(
    Array.from({ length: QUOTA }, () => omar.actions.create_upload({ name: "other", size: MAX })),
  );
  const unsent = await room.enqueue("", { files: [{ content: new Blob(["small"]) }] });
  await expect(unsent.sent()).rejects.toMatchObject({ code: "too_large" });
  await omar.actions.delete_upload({ file_id: others[0]?.id ?? "" });
  // There is room when the server has swept.
  let sent: Message | undefined;
  while (sent === undefined) {
    expect(await unsent.retry()).toBe(true);
    sent = await omar.unsent[0]?.sent().catch(() => undefined);
    await setTimeout(20);
  }
  expect(await has(omar, sent, [Buffer.from("small")])).toBe(true);
});

test("an upload that the server has deleted begins anew", async () => {
  const network = await world.bad();
  const omar = await world.client(world.name("omar"), { url: network.url });
  const room = omar.room({ topic_name: await topicOf(omar) });
  const contents = [randomBytes(100_000), new Uint8Array(MAX)] as const;
  const unsent = await room.enqueue("", { files: contents.map((bytes) => ({ content: new Blob([bytes]) })) });
  await until(omar, () => omar.unsent.some(({ files }) => (files[1]?.sent ?? 0) > 0));
  network.refuse();
  const deleted = await uploadsOf(omar);
  expect(deleted.length).toBe(2);
  const token = await world.server.token(omar.username);
  await world.server.http(token, "DELETE", `/api/files/${deleted[1]?.id}`);
  network.heal();
  const sent = await unsent.sent();
  expect(sent.files?.[1]?.id).not.toBe(deleted[1]?.id);
  expect(await has(omar, sent, contents)).toBe(true);
});
