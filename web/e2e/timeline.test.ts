/** What stands in a room's timeline, and that it stands still. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import type { Page } from "playwright-core";
import { AWAY, type Person } from "./support/person.ts";
import { members } from "./support/rooms.ts";
import { environment, PYTHON, REPOSITORY } from "./support/server.ts";
import { expect, test } from "./support/world.ts";

const PHONE = { viewport: { width: 390, height: 844 } };

/** How far (px) from the end they are, once nothing moves any more. */
function fromEnd({ log }: Person): Promise<number> {
  return log.evaluate(async (scroller) => {
    const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
    for (let still = 0, last = ""; still < 15; ) {
      await frame();
      const now = `${scroller.scrollTop} ${scroller.scrollHeight}`;
      still = now === last ? still + 1 : 0;
      last = now;
    }
    if (scroller.scrollHeight <= scroller.clientHeight) throw new Error("there is nothing to scroll");
    return scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop;
  });
}

/** The rows in the page from top to bottom: of a message what fits, of a line between messages "— " and its text. */
function rowsOf({ log }: Person, pattern: RegExp): Promise<string[]> {
  return log.locator(".day, .new-line, article").evaluateAll(
    (rows, pattern) =>
      rows.map((row) => {
        const text = row.textContent ?? "";
        return row.matches("article") ? (new RegExp(pattern).exec(text)?.[0] ?? text) : `— ${text}`;
      }),
    pattern.source,
  );
}

test("a room opens at its end and stays there as messages arrive, even while hidden", async ({ person, account }) => {
  const [omar, lucia] = await Promise.all([account("omar"), person("lucia", PHONE)]);
  const topic = `letters of ${omar.name}`;
  const room_id = await omar.topic(topic);
  const reader = await lucia.account();
  await reader.join(topic);
  const letter = (number: number) =>
    `letter ${number}\n\n\`\`\`\nof several\nlines\n\`\`\`\nand a last one that is long enough to be broken on a telephone`;
  for (let number = 1; number <= 15; number++) await omar.say(room_id, letter(number));
  const last = (await reader.history(room_id)).at(-1)?.seq ?? 0;
  await reader.ask("read", { room_id, seq: last });
  await lucia.enter(topic);
  await lucia.message("letter 15").waitFor();
  expect(await fromEnd(lucia)).toBeLessThan(2);
  await omar.say(room_id, letter(16));
  await lucia.message("letter 16").waitFor();
  expect(await fromEnd(lucia)).toBeLessThan(2);
  await lucia.page.reload();
  await lucia.message("letter 16").waitFor();
  expect(await fromEnd(lucia)).toBeLessThan(2);

  await lucia.button("Members").click();
  const panel = members(lucia);
  await panel.getByText(omar.name).waitFor();
  await lucia.log.waitFor({ state: "hidden" });
  await omar.say(room_id, letter(17));
  await panel.getByRole("button", { name: "Close" }).click();
  await lucia.message("letter 17").waitFor();
  expect(await fromEnd(lucia)).toBeLessThan(2);
});

test("a room opens at its end on a slow phone, even if its messages are higher or lower than estimated", async ({
  person,
  account,
}) => {
  const [omar, lucia] = await Promise.all([account("omar"), person("lucia", PHONE)]);
  const reader = await lucia.account();
  const topics = [1, 2, 3, 4].map((number) => `${number}. of ${omar.name}`);
  const contents = Array.from({ length: 30 }, (_, at) => (at < 25 ? "low" : "high\n\n```\nas\nhigh\nas\nthis\n```"));
  for (const topic of topics) {
    const room_id = await omar.topic(topic);
    await Promise.all(contents.map((content) => omar.say(room_id, content)));
    const last = (await omar.history(room_id)).at(-1)?.seq ?? 0;
    await reader.join(topic);
    await reader.ask("read", { room_id, seq: last });
  }
  const browser = await lucia.context.newCDPSession(lucia.page);
  for (const topic of topics) {
    await lucia.room(topic).waitFor();
    await browser.send("Emulation.setCPUThrottlingRate", { rate: 20 });
    await lucia.enter(topic);
    await lucia.message("high").first().waitFor();
    expect(await fromEnd(lucia)).toBeLessThan(2);
    await browser.send("Emulation.setCPUThrottlingRate", { rate: 1 });
    await lucia.button("Back").click();
  }
});

test("a line with the date precedes the first message of each day, even while scrolling up", async ({
  server,
  person,
  account,
}) => {
  // Where it is day now: none of this happens around midnight.
  const timezoneId = new Date().getUTCHours() < 12 ? "Asia/Tokyo" : "America/New_York";
  const omar = await person("omar", { timezoneId });
  const diego = await account("diego");
  const topic = `diary of ${diego.name}`;
  const room = await diego.topic(topic);
  await diego.leave();
  omar.expects(AWAY);
  await server.stop();
  const fill = [`${REPOSITORY}/web/e2e/support/fill.py`, server.data, room, "300", String(50 * 60)];
  await promisify(execFile)(PYTHON, fill, { env: environment({}) });
  await server.start();
  await omar.seesChat();
  await (await omar.account()).join(topic);

  const day = new Intl.DateTimeFormat("en-CA", { timeZone: timezoneId });
  const dayOf = (at: string | number) => Date.parse(day.format(new Date(at)));
  const called = (at: string) => {
    const ago = (dayOf(Date.now()) - dayOf(at)) / 86_400_000;
    if (ago < 2) return ago === 0 ? "Today" : "Yesterday";
    const style: Intl.DateTimeFormatOptions =
      ago < 7 ? { weekday: "long" } : { day: "numeric", month: "long", year: "numeric" };
    return new Intl.DateTimeFormat("en-GB", { ...style, timeZone: timezoneId }).format(new Date(at));
  };
  const messages = await diego.history(room);
  const expected = messages.flatMap(({ content, created_at }, at) => {
    const above = messages[at - 1];
    if (above !== undefined && dayOf(above.created_at) === dayOf(created_at)) return [];
    return [`${above?.content.slice(0, 14) ?? "the beginning"} — ${called(created_at)} — ${content.slice(0, 14)}`];
  });
  expect(expected.length).toBeGreaterThan(9);

  await omar.enter(topic);
  await omar.message("message-000300").waitFor();
  const seen = await daysSeen(omar.page);
  expect((await omar.sees(/message-\d+/)).length).toBe(300);
  expect((await seen()).sort()).toEqual(expected.sort());

  // From the beginning, where that leaves one, to a day in the middle.
  const wanted = messages.find(({ created_at }) => dayOf(created_at) >= dayOf(Date.now() - 5 * 86_400_000));
  if (wanted === undefined) throw new Error("there is no such day");
  const dialog = omar.page.getByRole("dialog", { name: "Go to a date" });
  await omar.menu("More about this room", "Go to a date");
  await dialog.getByLabel("Date").fill(day.format(Date.now() + 3 * 86_400_000));
  await dialog.getByRole("button", { name: "Go", exact: true }).click();
  await dialog.getByText("There are no messages on this date or later.").waitFor();
  await dialog.getByLabel("Date").fill(day.format(new Date(wanted.created_at)));
  await dialog.getByRole("button", { name: "Go", exact: true }).click();
  await dialog.waitFor({ state: "hidden" });
  expect(wanted.seq).toBeGreaterThan(100);
  await expect
    .poll(() => omar.page.locator(".message.highlighted").textContent())
    .toContain(wanted.content.slice(0, 14));
});

/** From now on, each line with a day that is in the page, with what is above and below it. */
async function daysSeen(page: Page): Promise<() => Promise<string[]>> {
  const seen = await page.evaluateHandle(() => {
    const seen = new Set<string>();
    const messageOf = (row: Element | null | undefined) =>
      row?.querySelector(".beginning") ? "the beginning" : /message-\d+/.exec(row?.textContent ?? "")?.[0];
    const look = () => {
      for (const line of document.querySelectorAll(".scroller .day")) {
        const above = messageOf(line.parentElement?.previousElementSibling);
        const below = messageOf(line.parentElement?.nextElementSibling);
        // At the edge of what is in the page, it is not known yet.
        if (above !== undefined && below !== undefined) seen.add(`${above} — ${line.textContent} — ${below}`);
      }
      requestAnimationFrame(look);
    };
    look();
    return seen;
  });
  return () => seen.evaluate((lines) => [...lines]);
}

test("the time beside a message does not cover its text, even with AM and PM", async ({ person }) => {
  const omar = await person("omar", { locale: "en-US" });
  const topic = `clock ${omar.name}`;
  await (await omar.account()).topic(topic);
  await omar.enter(topic);
  await omar.say("one", "two");
  await expect(omar.message("one").getByRole("time").textContent()).resolves.toMatch(/^\d{1,2}:\d\d\s[AP]M$/);
  const time = omar.message("two").getByRole("time");
  await omar.message("two").hover();
  await expect(time.textContent()).resolves.toMatch(/^\d{1,2}:\d\d$/);
  const text = await omar.message("two").getByText("two").boundingBox();
  const right = await time.evaluate((element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    return range.getBoundingClientRect().right;
  });
  expect(right).toBeLessThan((text?.x ?? 0) - 4);
});

test("messages missed in another room are below a line that stays, and one press leads to the newest", async ({
  person,
}) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  const topic = `news of ${omar.name}`;
  const program = await omar.account();
  const room_id = await program.topic(topic);
  await program.topic(`elsewhere ${omar.name}`);
  const reader = await lucia.account();
  for (const name of [topic, `elsewhere ${omar.name}`]) await reader.join(name);
  const news = /news-\d+/;
  const say = async (from: number, to: number) => {
    for (let number = from; number <= to; number++) await program.say(room_id, `news-${number}`);
  };

  await lucia.enter(topic);
  await omar.enter(topic);
  await omar.say("news-1", "news-2");
  await lucia.message("news-2").waitFor();
  expect(await rowsOf(lucia, news)).toEqual(["— Today", "news-1", "news-2"]);
  await lucia.enter(`elsewhere ${omar.name}`);
  await omar.say("news-3", "news-4");
  await expect.poll(() => lucia.page.title()).toMatch(/^\(2\)/);
  await lucia.enter(topic);
  const line = ["— Today", "news-1", "news-2", "— New messages", "news-3", "news-4"];
  await expect.poll(() => rowsOf(lucia, news)).toEqual(line);
  await omar.say("news-5");
  await lucia.message("news-5").waitFor();
  await lucia.say("news-6");
  await expect.poll(() => rowsOf(lucia, news)).toEqual([...line, "news-5", "news-6"]);

  await lucia.enter(`elsewhere ${omar.name}`);
  await lucia.enter(topic);
  await lucia.message("news-6").waitFor();
  expect(await rowsOf(lucia, news)).toEqual(["— Today", ...[1, 2, 3, 4, 5, 6].map((number) => `news-${number}`)]);

  // Somebody who is driven always looks: here they look at another window.
  await lucia.page.evaluate(() => {
    document.hasFocus = () => false;
    window.dispatchEvent(new Event("blur"));
  });
  await say(7, 46);
  await lucia.message("news-46").waitFor();
  await lucia.page.evaluate(() => {
    document.hasFocus = () => true;
    window.dispatchEvent(new Event("focus"));
  });
  const newLine = lucia.log.getByText("New messages");
  await lucia.log.evaluate((scroller) => {
    scroller.scrollTop = 0;
  });
  await newLine.waitFor();
  const place = await newLine.boundingBox();
  await say(47, 49);
  const toNewest = lucia.button(/^Jump to newest *3 new$/);
  await toNewest.waitFor();
  expect(await newLine.boundingBox()).toEqual(place);
  const rows = await rowsOf(lucia, news);
  const at = rows.indexOf("— New messages");
  expect(rows.slice(at - 1, at + 2)).toEqual(["news-6", "— New messages", "news-7"]);
  await toNewest.click();
  await lucia.message("news-49").waitFor();
  expect(await fromEnd(lucia)).toBeLessThan(2);
  await toNewest.waitFor({ state: "hidden" });
  await expect.poll(() => lucia.page.title()).not.toMatch(/^\(/);
});

test("a room with many unread messages opens at the first one; unseen messages stay unread, and one press leads to either end", async ({
  person,
  account,
}) => {
  const lucia = await person("lucia");
  const omar = await account("omar");
  const [topic, other] = [`flood of ${omar.name}`, `elsewhere of ${omar.name}`];
  const reader = await lucia.account();
  const room_id = await omar.topic(topic);
  for (const name of [topic, other]) {
    if (name === other) await omar.topic(other);
    await reader.join(name);
  }
  const drop = /drop-\d+/;
  const fall = async (from: number, to: number) => {
    for (let number = from; number <= to; number++) await omar.say(room_id, `drop-${number}`);
  };
  await fall(1, 30);
  await lucia.enter(topic);
  await lucia.button("Jump to newest").click();
  await lucia.message("drop-30").waitFor();
  await expect.poll(() => lucia.page.title()).not.toMatch(/^\(/);
  await lucia.enter(other);
  await fall(31, 127);
  await expect.poll(() => lucia.page.title()).toMatch(/^\(97\)/);

  await lucia.enter(topic);
  const line = lucia.log.getByText("New messages");
  await line.waitFor();
  await lucia.message("drop-31").waitFor();
  const inSight = async (text: string) => {
    const [box, log] = await Promise.all([lucia.message(text).boundingBox(), lucia.log.boundingBox()]);
    return box !== null && log !== null && box.y >= log.y - 1 && box.y + box.height <= log.y + log.height + 1;
  };
  await expect.poll(() => inSight("drop-31")).toBe(true);
  expect(await lucia.message("drop-127").count()).toBe(0);
  // What is on the screen has been read, the rest has not.
  await expect.poll(() => lucia.page.title()).not.toMatch(/^\(97\)/);
  expect(await lucia.page.title()).toMatch(/^\([1-9]\d?\)/);
  await lucia.enter(other);
  await lucia.enter(topic);
  await lucia.button("Jump to newest").click();
  await lucia.message("drop-127").waitFor();
  await expect.poll(() => lucia.page.title()).not.toMatch(/^\(/);
  expect(await rowsOf(lucia, drop)).toContain("drop-127");

  // From any message, one key leads to the first of the room; from there, one to the newest.
  await lucia.message("drop-127").focus();
  await lucia.page.keyboard.press("Home");
  await lucia.message(/drop-1(?!\d)/).waitFor();
  await expect.poll(() => lucia.message(/drop-1(?!\d)/).evaluate((row) => row === document.activeElement)).toBe(true);
  await lucia.page.keyboard.press("End");
  await lucia.message("drop-127").waitFor();
  expect(await fromEnd(lucia)).toBeLessThan(2);
});

test("returning to an open room shows the number of missed messages and leads to the first", async ({
  person,
  account,
}) => {
  const lucia = await person("lucia");
  const omar = await account("omar");
  const topic = `return of ${lucia.name}`;
  const room_id = await omar.topic(topic);
  await (await lucia.account()).join(topic);
  await lucia.enter(topic);
  await omar.say(room_id, "before");
  await lucia.message("before").waitFor();
  lucia.expects(AWAY);
  await lucia.context.setOffline(true);
  await lucia.page.getByText("You are offline.").waitFor();
  for (let number = 1; number <= 60; number++) await omar.say(room_id, `missed-${number}`);
  await lucia.context.setOffline(false);
  await lucia.message("missed-60").waitFor();
  await lucia.button("60 new messages").click();
  await lucia.log.getByText("New messages").waitFor();
  await lucia.message(/missed-1(?!\d)/).waitFor();
  await lucia.button(/new messages$/).waitFor({ state: "hidden" });
  await lucia.button("Jump to newest").click();
  await lucia.message("missed-60").waitFor();
  await lucia.button(/new messages$/).waitFor({ state: "hidden" });
});

test("a new room shows its beginning and how to invite others", async ({ person }) => {
  const omar = await person("omar");
  const program = await omar.account();
  const [open, closed] = [`open of ${omar.name}`, `closed of ${omar.name}`];
  await program.topic(open);
  await program.topic(closed, true);
  await omar.enter(open);
  await omar.log.getByText("A public topic: everyone on this server can find it and join.").waitFor();
  await omar.log.getByRole("button", { name: "Copy link" }).waitFor();
  await omar.enter(closed);
  await omar.log.getByText("A private topic: only who is invited can join.").waitFor();
  await omar.log.getByRole("button", { name: "Invite people" }).click();
  await omar.page.getByRole("dialog", { name: `Invite to ${closed}` }).waitFor();
});
