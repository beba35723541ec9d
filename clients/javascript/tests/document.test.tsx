/** The code of docs/client-javascript.md as printed, except for the server's address. */
import "./support/dom.ts";

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { createElement, type FunctionComponent } from "react";
import { createRoot } from "react-dom/client";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Client } from "../src/client.ts";
import { statusOf, World } from "./support/world.ts";

const world = new World();
const PACKAGE = join(import.meta.dirname, "..");
let folder = "";

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "tidings-document-"));
  await mkdir(join(folder, "node_modules/@tidings"), { recursive: true });
  await symlink(PACKAGE, join(folder, "node_modules/@tidings/client"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function snippet(language: string): Promise<string> {
  const text = await readFile(join(PACKAGE, "../../docs/client-javascript.md"), "utf8");
  const code = new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, "ms").exec(text)?.[1] ?? "";
  return code.replace("http://127.0.0.1:8000", world.server.url);
}

/** Run the program until it has printed a line, then kill it. */
async function printed(last: string, token: string): Promise<string[]> {
  await writeFile(join(folder, "program.mjs"), await snippet("js"));
  const process_ = spawn(process.execPath, ["program.mjs"], {
    cwd: folder,
    env: { ...process.env, TOKEN: token },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const gone = once(process_, "close");
  const lines: string[] = [];
  for await (const line of createInterface({ input: process_.stdout })) {
    lines.push(line);
    if (line === last) break;
  }
  process_.kill("SIGKILL");
  await gone;
  return lines;
}

test("the program on the page prints its message, and goes on where it was when it runs again", async () => {
  const username = world.name("omar");
  const token = await world.server.token(username);
  await (await world.client(username, { device: "setup" })).actions.create({ topic_name: "noticias" });
  const [first, second] = [`1 ${username} Hola`, `2 ${username} Hola`] as const;
  expect(await printed(first, token)).toEqual([first]);
  // If it was killed before it asked for the next message, the first one comes again.
  expect([[second], [first, second]]).toContainEqual(await printed(second, token));
});

test("the React example on the page shows messages and those that wait", async () => {
  const file = join(PACKAGE, "tests", `example${process.pid}.tmp.jsx`);
  const code = (await snippet("tsx")).replace("@tidings/client/react", "../src/react.ts");
  await writeFile(file, code);
  world.cleanups.push(() => rm(file, { force: true }));
  const { Chat } = (await import(/* @vite-ignore */ file)) as {
    Chat: FunctionComponent<{ client: Client; topic: string }>;
  };
  const network = await world.bad();
  const topic = world.name("topic");
  const client = await world.client(world.name("omar"), { url: network.url });
  await client.actions.create({ topic_name: topic });
  const room = await client.join(topic);
  await room.send("Hola");
  const element = document.createElement("div");
  const root = createRoot(element);
  world.cleanups.push(async () => root.unmount());
  root.render(createElement(Chat, { client, topic }));
  await expect.poll(() => element.textContent).toBe("onlineHola");
  network.refuse();
  await statusOf(client, "offline");
  await room.enqueue("later");
  await expect.poll(() => element.textContent).toMatch(/Holalater \(waiting\)$/);
});
