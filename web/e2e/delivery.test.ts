/** What is written arrives: once, in order, whatever happens to the network, the server or the page. */
import type { Page } from "playwright-core";
import { AWAY } from "./support/person.ts";
import { expect, test } from "./support/world.ts";

const WAITS = "Waits to be sent";

function numbered(word: string, from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, at) => `${word}-${String(from + at).padStart(3, "0")}`);
}

function banner(page: Page) {
  return page.getByRole("status").filter({ hasText: /offline|restarting|reached/ });
}

test("what is written offline waits, also over a reload, and is sent once and in order when the network is back", async ({
  person,
  account,
}) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const topic = `offline ${omar.name}`;
  const room = await diego.topic(topic);
  await (await omar.account()).join(topic);
  await omar.enter(topic);
  await omar.say("before-001");
  await omar.message("before-001").waitFor();
  await omar.log.getByLabel(WAITS).waitFor({ state: "hidden" });
  await omar.page.evaluate(async () => void (await navigator.serviceWorker.ready));

  omar.expects(AWAY);
  await omar.context.setOffline(true);
  await omar.page.getByText("You are offline.").waitFor();
  const written = numbered("offline", 1, 12);
  await omar.say(...written.slice(0, 8));
  await expect.poll(() => omar.log.getByLabel(WAITS).count()).toBe(8);

  await omar.page.reload();
  await omar.message("before-001").waitFor();
  await omar.say(...written.slice(8));
  await expect.poll(() => omar.log.getByLabel(WAITS).count()).toBe(12);
  expect((await diego.history(room)).map(({ content }) => content)).toEqual(["before-001"]);

  await omar.context.setOffline(false);
  await omar.message("offline-012").waitFor();
  await expect.poll(() => omar.log.getByLabel(WAITS).count()).toBe(0);
  expect((await diego.history(room)).map(({ content }) => content)).toEqual(["before-001", ...written]);
  expect(await omar.sees(/(before|offline)-\d+/)).toEqual(["before-001", ...written]);

  await omar.say("after-001");
  await omar.message("after-001").waitFor();
  await omar.log.getByLabel(WAITS).waitFor({ state: "hidden" });
  await omar.context.setOffline(true);
  await omar.page.reload();
  await omar.message("after-001").waitFor();
});

test("a server that is killed while two people write two hundred messages loses none, repeats none and keeps their order", async ({
  server,
  person,
}) => {
  const omar = await person("omar");
  const lucia = await person("lucia");
  const topic = `killed ${omar.name}`;
  const program = await omar.account();
  const room = await program.topic(topic);
  await (await lucia.account()).join(topic);
  for (const one of [omar, lucia]) {
    one.expects(AWAY);
    await one.enter(topic);
  }
  const ofOmar = numbered("omar", 1, 100);
  const ofLucia = numbered("lucia", 1, 100);
  const killing = async () => {
    await expect.poll(async () => (await program.history(room)).length).toBeGreaterThan(20);
    await server.kill();
    await banner(omar.page).waitFor();
    await server.start();
  };
  await Promise.all([omar.say(...ofOmar), lucia.say(...ofLucia), killing()]);
  // Nobody presses anything: the pages come back by themselves.
  await expect.poll(async () => (await program.history(room)).length).toBe(200);
  const history = (await program.history(room)).map(({ content }) => content);
  expect(history.filter((text) => text.startsWith("omar"))).toEqual(ofOmar);
  expect(history.filter((text) => text.startsWith("lucia"))).toEqual(ofLucia);
  for (const one of [omar, lucia]) {
    await one.message(history.at(-1) ?? "").waitFor();
    await expect.poll(() => one.log.getByLabel(WAITS).count()).toBe(0);
    expect(await one.sees(/(omar|lucia)-\d{3}/)).toEqual(history);
  }
});

test("a page that is reloaded in the middle of a burst has no gap and no repeat", async ({ person, account }) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const topic = `burst ${omar.name}`;
  const room = await diego.topic(topic);
  await (await omar.account()).join(topic);
  await omar.enter(topic);
  const burst = numbered("burst", 1, 150);
  const sending = Promise.all(burst.map((text) => diego.say(room, text)));
  for (let reloads = 0; reloads < 2; reloads++) {
    await omar
      .message(/burst-/)
      .first()
      .waitFor();
    await omar.page.reload();
  }
  await sending;
  const more = numbered("later", 1, 20);
  for (const text of more) await diego.say(room, text);
  await omar.message("later-020").waitFor();
  expect(await omar.sees(/(burst|later)-\d{3}/)).toEqual([...burst, ...more]);
});

test("two tabs of one browser send what waits once, and both show it", async ({ person, account }) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const topic = `tabs ${omar.name}`;
  const room = await diego.topic(topic);
  await (await omar.account()).join(topic);
  await omar.enter(topic);
  const first = omar.page;
  const second = await omar.context.newPage();
  await second.goto(first.url());
  await second.getByRole("navigation", { name: "Rooms" }).getByText("Online", { exact: true }).waitFor();
  omar.expects(AWAY);
  await omar.context.setOffline(true);
  for (const page of [first, second]) await page.getByText("You are offline.").waitFor();
  const texts = numbered("tab", 1, 12);
  for (const [at, text] of texts.entries()) {
    omar.page = at % 2 === 0 ? first : second;
    await omar.say(text);
  }
  await omar.context.setOffline(false);
  for (const page of [first, second]) {
    omar.page = page;
    await page.bringToFront();
    await omar.message("tab-012").waitFor();
    await expect.poll(() => omar.log.getByLabel(WAITS).count()).toBe(0);
    expect(await omar.sees(/tab-\d{3}/)).toEqual(texts);
  }
  expect((await diego.history(room)).map(({ content }) => content)).toEqual(texts);
});

test("the banner says why there is no connection, and goes when there is one", async ({ server, person }) => {
  const omar = await person("omar");
  omar.expects(AWAY);
  await omar.context.setOffline(true);
  await omar.page.getByText("You are offline.").waitFor();
  await omar.context.setOffline(false);
  await banner(omar.page).waitFor({ state: "hidden" });
  const told = omar.page.getByText("The server is restarting.").waitFor();
  await server.stop();
  await told;
  await omar.page.getByText("The server cannot be reached.").waitFor();
  await server.start();
  await banner(omar.page).waitFor({ state: "hidden" });
});

test("who signs out before all is sent is asked, and signed out once it is sent", async ({ person, account }) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const topic = `leaving ${omar.name}`;
  const room = await diego.topic(topic);
  await (await omar.account()).join(topic);
  await omar.enter(topic);
  omar.expects(AWAY);
  await omar.context.setOffline(true);
  await omar.page.getByText("You are offline.").waitFor();
  await omar.say("last words");
  await omar.log.getByLabel(WAITS).waitFor();
  await omar.button("Sign out").click();
  await omar.page.getByText("One message that you wrote is only on this device yet.").waitFor();
  await omar.button("Stay").click();
  await omar.button("Sign out").click();
  await omar.page.getByRole("dialog", { name: "Not everything was sent" }).waitFor();
  await omar.context.setOffline(false);
  await omar.button("Sign in").waitFor();
  expect((await diego.history(room)).map(({ content }) => content)).toEqual(["last words"]);
});
