/** The terminal client and the page speak to each other. */
import { execFile, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { PASSWORD } from "./support/account.ts";
import { environment, PYTHON, REPOSITORY } from "./support/server.ts";
import { expect, test } from "./support/world.ts";

test("two browsers and a terminal show the same messages in the same order", async ({ server, person }) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  const topic = "three";
  const room = await (await omar.account()).topic(topic);
  await (await lucia.account()).join(topic);
  const as = (user: string, device: string) => [
    ...["-m", "tidings_chat", "--server", server.url, "--user", user, "--password", PASSWORD, "--register"],
    ...["--state", `${server.data}/${device}`],
  ];
  const options = { cwd: REPOSITORY, env: environment({}) };

  const tail = spawn(PYTHON, [...as("teresa", "tail"), "tail", topic, "--json", "--count", "3", "--timeout", "40"], {
    ...options,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const heard: string[] = [];
  const ended = new Promise((resolve) => tail.once("close", resolve));
  createInterface({ input: tail.stdout }).on("line", (line) => {
    const { sender, content } = JSON.parse(line) as { sender: string; content: string };
    heard.push(`${sender}: ${content}`);
  });
  await omar.enter(topic);
  await lucia.enter(topic);
  await expect
    .poll(async () => (await (await omar.account()).ask("get_members", { room_id: room })).members.length)
    .toBe(3);

  await omar.say("good morning");
  await lucia.message("good morning").waitFor();
  await lucia.say("and to you");
  await omar.message("and to you").waitFor();
  await promisify(execFile)(PYTHON, [...as("teresa", "send"), "send", topic, "hello from a terminal"], options);
  for (const one of [omar, lucia]) {
    await one.message("hello from a terminal").filter({ hasText: "teresa" }).waitFor();
    expect(await one.sees(/good morning|and to you|hello from a terminal/)).toEqual([
      "good morning",
      "and to you",
      "hello from a terminal",
    ]);
  }
  expect(await ended).toBe(0);
  expect(heard).toEqual([`${omar.name}: good morning`, `${lucia.name}: and to you`, "teresa: hello from a terminal"]);
});
