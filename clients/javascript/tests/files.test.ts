import { randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import type { Client } from "../src/client.ts";
import type { Message } from "../src/node.ts";
import { World } from "./support/world.ts";

const world = new World();
const KB = 1024;

/** The bytes of a message's files. */
async function contentsOf(client: Client, message: Message): Promise<Buffer[]> {
  const file_ids = (message.files ?? []).map(({ id }) => id);
  const { files } = await client.actions.get_files({ file_ids });
  return Promise.all(
    files.map(async ({ url }) => Buffer.from(await (await fetch(`${world.server.url}/${url}`)).arrayBuffer())),
  );
}

test("a message arrives with its files, with their names and alternative texts", async () => {
  const topic = world.name("topic");
  const omar = await world.client(world.name("omar"));
  await omar.actions.create({ topic_name: topic });
  const bytes = [randomBytes(1300 * KB), Buffer.from("Hola")] as const;
  const files = [
    { content: new File([bytes[0]], "one.bin") },
    { content: new Blob([bytes[1]]), name: "two.txt", alt: "a greeting" },
  ];
  const progress: number[] = [];
  omar.onUnsent(() => progress.push(...omar.unsent.flatMap((unsent) => unsent.files.map(({ sent }) => sent))));
  const sent = await omar.room({ topic_name: topic }).send("", { files });
  expect(sent.files).toMatchObject([
    { name: "one.bin", size: 1300 * KB, alt: null },
    { name: "two.txt", size: 4, alt: "a greeting", type: "text/plain" },
  ]);
  expect(await contentsOf(omar, sent)).toEqual(bytes);
  expect(progress).toContain(1300 * KB);
  expect(await omar.store.range("b/")).toEqual([]);
  expect(await omar.store.range("u/")).toEqual([]);
});
