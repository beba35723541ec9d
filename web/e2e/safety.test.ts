/** What somebody wrote is text, whoever shows it and wherever: nothing of it runs, loads or leads to a script. */
import { HOSTILE } from "../tests/hostile.ts";
import { Account } from "./support/account.ts";
import { HTML, PAYLOADS } from "./support/payloads.ts";
import type { Person } from "./support/person.ts";
import { expect, test } from "./support/world.ts";

const LONGEST_USERNAME = 32;
const LONGEST_TOPIC = 64;

/** What of a text is left whatever is made of the signs in it. */
function letters(text: string): string {
  return text.replace(/[^a-z0-9]/gi, "");
}

/** Elements that no view of ours makes, attributes that run, and addresses that lead to a script or another host. */
function strangers(person: Person): Promise<string[]> {
  return person.page.evaluate(() => {
    const never =
      "script, iframe, object, embed, base, meta, link, style, video, audio, source, math, details, marquee";
    const found = [...document.body.querySelectorAll(never)].map((element) => element.outerHTML);
    for (const element of document.body.querySelectorAll("*"))
      for (const { name, value } of element.attributes) {
        if (/^(on|srcdoc)/i.test(name)) found.push(element.outerHTML);
        if (!/^(href|src|action|formaction|xlink:href|data)$/i.test(name)) continue;
        const { protocol, origin } = new URL(value, window.location.href);
        const leads = element instanceof HTMLAnchorElement && ["http:", "https:", "mailto:"].includes(protocol);
        if (!leads && origin !== window.location.origin) found.push(element.outerHTML);
      }
    return found;
  });
}

/** The same, of everything that a list shows to who scrolls down through it; answers the names of what is in it. */
async function scrolledThrough(person: Person, list: string, item: string): Promise<Set<string>> {
  const names = new Set<string>();
  const scroller = person.page.locator(list);
  await scroller.locator(item).first().waitFor();
  for (let top = -1, now = 0; now !== top; ) {
    top = now;
    expect(await strangers(person)).toEqual([]);
    for (const name of await scroller.locator(item).allTextContents()) names.add(name);
    now = await scroller.evaluate(async (element) => {
      element.scrollTop += element.clientHeight / 2;
      for (let frames = 0; frames < 3; frames++) await new Promise((resolve) => requestAnimationFrame(resolve));
      return element.scrollTop;
    });
  }
  await scroller.evaluate(async (element) => {
    element.scrollTop = 0;
    for (let frames = 0; frames < 3; frames++) await new Promise((resolve) => requestAnimationFrame(resolve));
  });
  return names;
}

test("two hundred payloads as usernames, topics, titles, reactions and messages stay text", async ({
  server,
  person,
  account,
}) => {
  expect(new Set(PAYLOADS).size).toBe(200);
  const eve = await account("eve");
  const omar = await person("omar");
  const program = await omar.account();
  const hall = await eve.topic("hall");
  await program.join("hall");
  const fitting = HTML.filter((payload) => payload.length <= LONGEST_USERNAME && !/\s/.test(payload));
  const usernames = [...new Set(fitting.map((payload) => payload.toLowerCase()))];
  const named = new Map(PAYLOADS.map((payload) => [payload.toLowerCase(), payload]));
  const titles = PAYLOADS.filter((payload) => /^\P{Cc}*$/u.test(payload));
  const topics = [...named.values()].filter(
    (payload) => payload.length <= LONGEST_TOPIC && titles.includes(payload) && !fitting.includes(payload),
  );
  for (const username of usernames) {
    const one = await Account.create(server.url, username);
    expect(one.name).toBe(username);
    await one.join("hall");
    await one.say(hall, `I am ${username}`);
    await one.leave();
  }
  const messages = await Promise.all(PAYLOADS.map((payload) => eve.say(hall, payload)));
  await Promise.all(titles.map((title) => eve.ask("create_conversation", { usernames: [omar.name], title })));
  for (const topic of topics) await eve.topic(topic);
  for (const topic of topics.slice(0, 20)) await program.join(topic);
  const last = messages.at(-1);
  if (last === undefined) throw new Error("nothing was said");
  for (const emoji of usernames) await eve.ask("react", { message_id: last.id, emoji });
  await eve.ask("message", { room_id: hall, content: "an answer", reply_to: last.id });

  const rooms = await scrolledThrough(omar, "nav .room-list", "a");
  for (const title of [...titles, ...topics.slice(0, 20)]) expect(rooms).toContain(title.trim());

  await omar.enter("hall"); // at the first of the messages, for all are new
  await omar.button(/Jump to newest/).click();
  await omar.message("an answer").waitFor();
  const seen = letters((await omar.sees(/[\s\S]+/)).join(" "));
  for (const payload of HTML) expect(seen).toContain(letters(payload));
  const articles = await scrolledThrough(omar, "[role=log]", "article");
  expect(articles.size).toBeGreaterThanOrEqual(PAYLOADS.length);

  await omar.button("Members").click();
  const members = await scrolledThrough(omar, ".content.members", "button, .member");
  for (const username of usernames) expect([...members].join(" ")).toContain(username);
  await omar.button("Search in this room").click();
  await omar.page.getByRole("searchbox", { name: "Search", exact: true }).fill("alert");
  await omar.page.getByRole("list", { name: "Results" }).getByRole("button").first().waitFor();
  expect(await strangers(omar)).toEqual([]);
  await omar.button("Find topics").click();
  await omar.page.getByRole("dialog").getByRole("listitem").nth(99).waitFor();
  expect(await strangers(omar)).toEqual([]);
  await omar.page.keyboard.press("Escape");
  const newest = topics[19] ?? "";
  await omar.room(newest).first().click();
  await omar.page.getByRole("heading", { level: 1, name: newest, exact: true }).waitFor();
  await expect.poll(() => omar.page.title()).toContain(newest);
  expect(await strangers(omar)).toEqual([]);
});

test("no message prevents opening its room or deleting it as a moderator", async ({ person, account }) => {
  const eve = await account("eve");
  const omar = await person("omar");
  const program = await omar.account();
  const topic = `open ${omar.name}`;
  const room_id = await program.topic(topic);
  await eve.join(topic);
  const names = Object.keys(HOSTILE);
  for (const name of names) await eve.ask("message", { room_id, content: HOSTILE[name] ?? "" });
  await program.say(room_id, "still open");
  await omar.enter(topic);
  await omar.message("still open").waitFor();
  const log = await omar.log.elementHandle();
  expect(await omar.page.evaluate(scrolledToTop, log)).toBe(names.length + 1);
  const worst = omar.log.getByRole("article").first();
  await worst.hover({ position: { x: 10, y: 10 } });
  await worst.getByRole("button", { name: "More actions" }).click();
  await omar.page.getByRole("menuitem", { name: "Delete" }).click();
  await omar.page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await omar.message("This message was deleted").waitFor();
  await omar.page.reload();
  await omar.message("still open").waitFor();
});

/** Runs in the page: how many messages the log shows to somebody who scrolls up to its beginning. */
async function scrolledToTop(log: Node | null): Promise<number> {
  const scroller = log as HTMLElement;
  const seen = new Set<string | undefined>();
  for (let still = 0; still < 10; still = scroller.scrollTop > 0 ? 0 : still + 1) {
    for (const article of scroller.querySelectorAll<HTMLElement>("article")) seen.add(article.dataset.key);
    scroller.scrollTop -= scroller.clientHeight / 2;
    await new Promise((resolve) => requestAnimationFrame(resolve));
  }
  return seen.size;
}

test("a message that breaks its renderer is shown as typed, and the others as usual", async ({ person, account }) => {
  const eve = await account("eve");
  const omar = await person("omar");
  omar.expects(/planted/);
  const topic = `broken ${omar.name}`;
  const room_id = await (await omar.account()).topic(topic);
  await eve.join(topic);
  await eve.say(room_id, "*this* one breaks");
  await eve.say(room_id, "this one is *fine*");
  await omar.page.addInitScript(() => {
    const { test } = RegExp.prototype;
    RegExp.prototype.test = function (text) {
      if (text.endsWith("this* one breaks")) throw new RangeError("planted");
      return test.call(this, text);
    };
  });
  await omar.page.reload();
  await omar.enter(topic);
  await omar.message("*this* one breaks").waitFor();
  expect(await omar.message("this one is").locator("em").textContent()).toBe("fine");
  await eve.say(room_id, "and it goes on");
  await omar.message("and it goes on").waitFor();
});

test("a strict policy allows only the page's own scripts and no other host", async ({ server }) => {
  const answer = await fetch(server.url);
  const policy = Object.fromEntries(
    (answer.headers.get("content-security-policy") ?? "").split("; ").map((rule) => {
      const [name = "", ...sources] = rule.split(" ");
      return [name, sources.join(" ")];
    }),
  );
  expect(policy).toMatchObject({
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
  });
  for (const sources of Object.values(policy)) expect(sources).not.toMatch(/unsafe|\*|https?:|wss?:/);
});
