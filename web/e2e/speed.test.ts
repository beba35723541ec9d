/** A room of a hundred thousand messages: what is on the screen stays small, and stays where it is. */
import { execFile } from "node:child_process";
import { setInterval } from "node:timers/promises";
import { promisify } from "node:util";
import type { Account } from "./support/account.ts";
import { type Frames, framesWhile, scrolledUp, scrollUp } from "./support/frames.ts";
import { AWAY, type Person } from "./support/person.ts";
import { environment, PYTHON, REPOSITORY } from "./support/server.ts";
import { expect, test } from "./support/world.ts";

const MESSAGES = 100_000;
const PER_SECOND = 50;
const MOST_ELEMENTS = 3000;
const MOST_TRANSFERRED = 200 * 1024;

test("the page loads less than 200 KB", async ({ visitor }) => {
  const omar = await visitor("omar", { serviceWorkers: "block" });
  await omar.button("Sign in").waitFor();
  // With the code of the chat, which comes while one signs in, and the font.
  const loaded = () => omar.page.evaluate(() => performance.getEntriesByType("resource").map(({ name }) => name));
  await expect.poll(async () => (await loaded()).join()).toMatch(/SignedIn-.*\.js/);
  await omar.page.waitForLoadState("networkidle");
  expect((await loaded()).filter((name) => name.endsWith(".woff2"))).toEqual([
    expect.stringContaining("inter-first"),
  ]);
  const transferred = await omar.page.evaluate(() =>
    performance
      .getEntriesByType("resource")
      .concat(performance.getEntriesByType("navigation"))
      .reduce((sum, entry) => sum + (entry as PerformanceResourceTiming).transferSize, 0),
  );
  process.stdout.write(`first load: ${(transferred / 1024).toFixed(1)} KB\n`);
  expect(transferred).toBeGreaterThan(50 * 1024);
  expect(transferred).toBeLessThan(MOST_TRANSFERRED);
});

test("a room of a hundred thousand messages opens at its end, scrolls up without a jump, and keeps its place while fifty a second arrive", async ({
  server,
  person,
  account,
}) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const topic = `large ${omar.name}`;
  const room = await diego.topic(topic);
  await diego.leave();
  omar.expects(AWAY);
  await server.stop();
  const fill = [`${REPOSITORY}/web/e2e/support/fill.py`, server.data, room, String(MESSAGES)];
  await promisify(execFile)(PYTHON, fill, { env: environment({}) });
  await server.start();
  await omar.seesChat();
  await (await omar.account()).join(topic);
  await omar.enter(topic);
  await omar.message(`message-${MESSAGES}`).waitFor();

  const [seen] = await Promise.all([scrolledUp(omar.log, 20), arrive(diego, room, "first", 100)]);
  const numbers = seen.flatMap((text) => numberIn(text) ?? []);
  // Every message from the first that was seen to the end: none missed, none twice.
  const first = numbers[0] ?? 0;
  expect(numbers).toEqual(Array.from({ length: MESSAGES - first + 1 }, (_, at) => first + at));
  expect(numbers.length).toBeGreaterThan(200);

  const before = await placeOf(omar);
  await arrive(diego, room, "second", 50);
  await omar.page.getByRole("button", { name: /Jump to newest.*150/ }).waitFor();
  const after = await placeOf(omar);
  expect(after.text).toBe(before.text);
  expect(Math.abs(after.at - before.at)).toBeLessThan(1);
  expect(await omar.page.locator("*").count()).toBeLessThan(MOST_ELEMENTS);

  const scrolling = await framesWhile(omar.page, async () => {
    await Promise.all([scrollUp(omar.log, 2), arrive(diego, room, "third", 100)]);
  });
  tell("scrolling", scrolling);
  // How far that led depends on how soon the pages came.
  while ((numberIn((await placeOf(omar)).text) ?? first) >= first - 200) await scrollUp(omar.log, 1);

  await omar.button(/Jump to newest/).click();
  await omar.message("third-99").waitFor();
  const following = await framesWhile(omar.page, async () => {
    await arrive(diego, room, "fourth", 100);
    await omar.message("fourth-99").waitFor();
  });
  tell("at the end", following);
});

/** Only told: frames depend on the machine, and on what else it does. */
function tell(where: string, frames: Frames): void {
  process.stdout.write(`${where}, while ${PER_SECOND} messages a second arrive: ${frames}\n`);
}

/** The number of a message that was there from the beginning */
function numberIn(text: string | null): number | undefined {
  const number = /message-(\d+)/.exec(text ?? "")?.[1];
  return number === undefined ? undefined : Number(number);
}

/** Have messages arrive, so many a second; returns when the last is in the room. */
async function arrive(from: Account, room: string, word: string, count: number): Promise<void> {
  const sent: Promise<unknown>[] = [];
  for await (const _ of setInterval(1000 / PER_SECOND)) {
    sent.push(from.say(room, `${word}-${sent.length}`));
    if (sent.length === count) break;
  }
  await Promise.all(sent);
}

/** The first whole message on the screen, and how far down it is. */
function placeOf({ log }: Person): Promise<{ text: string | null; at: number }> {
  return log.evaluate((scroller) => {
    const { top } = scroller.getBoundingClientRect();
    const article = [...scroller.querySelectorAll("article")].find((one) => one.getBoundingClientRect().top >= top);
    return { text: article?.textContent ?? null, at: article?.getBoundingClientRect().top ?? 0 };
  });
}
