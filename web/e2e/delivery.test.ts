/** What is written arrives: once, in order, whatever happens to the network, the server or the page. */
import type { JSHandle, Page, Route } from "playwright-core";
import { AWAY } from "./support/person.ts";
import { expect, test } from "./support/world.ts";

const WAITS = "Waiting to be sent";

function numbered(word: string, from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, at) => `${word}-${String(from + at).padStart(3, "0")}`);
}

function banner(page: Page) {
  return page.getByRole("status").filter({ hasText: /offline|restarting|reached/ });
}

/**
 * Note what the banner says, from now on, one after the other. That it connects, after a second of something else, is
 * not noted: a slow machine may take so long.
 */
function noted(page: Page): Promise<JSHandle<string[]>> {
  return page.evaluateHandle(() => {
    const said: string[] = [];
    const banner = document.querySelector("[role=status]") as HTMLElement;
    let [last, since] = ["", performance.now()];
    new MutationObserver(() => {
      const text = banner.querySelector("span")?.textContent ?? "";
      if (text === last) return;
      const before = since;
      [last, since] = [text, performance.now()];
      if (text === "Connecting…" && since - before >= 1000) return;
      if (text !== said.at(-1)) said.push(text);
    }).observe(banner, { childList: true, subtree: true, characterData: true });
    return said;
  });
}

test("messages written offline survive a reload and are sent once, in order", async ({ person, account }) => {
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

test("a server that is killed under load loses, repeats and reorders no message", async ({ server, person }) => {
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

test("a page that is reloaded during a burst has no gap and no repeat", async ({ person, account }) => {
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

test("two tabs send each unsent message once, and both show it", async ({ person, account }) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const topic = `tabs ${omar.name}`;
  const room = await diego.topic(topic);
  await (await omar.account()).join(topic);
  await omar.enter(topic);
  const first = omar.page;
  const second = await omar.context.newPage();
  await second.goto(first.url());
  await second.getByRole("textbox", { name: "Message", exact: true }).waitFor();
  omar.expects(AWAY);
  await omar.context.setOffline(true);
  for (const page of [first, second]) await page.getByText("You are offline.").waitFor();
  const texts = numbered("tab", 1, 12);
  for (const [at, text] of texts.entries()) {
    omar.page = at % 2 === 0 ? first : second;
    await omar.say(text);
    await omar.message(text).waitFor(); // stored: only then has it its place before what the other tab stores
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

test("the banner explains a missing connection and disappears when it is back", async ({ server, person }) => {
  const omar = await person("omar");
  omar.expects(AWAY);
  await omar.context.setOffline(true);
  await omar.page.getByText("You are offline.").waitFor();
  await omar.context.setOffline(false);
  await banner(omar.page).waitFor({ state: "hidden" });
  await omar.seesChat();
  const said = await noted(omar.page);
  await server.stop();
  await omar.page.getByText("The server cannot be reached.").waitFor();
  await server.start();
  await omar.seesChat();
  // Each for as long as it is so: it does not flicker while the page tries to connect.
  expect(await said.jsonValue()).toEqual([
    "The server is restarting. Reconnecting in a moment…",
    "The server cannot be reached. Trying again…",
    "",
  ]);
});

test("a new device that loses its network before its first rooms loads them when it is back", async ({
  person,
  visitor,
}) => {
  const omar = await person("omar");
  const topic = `new device ${omar.name}`;
  await (await omar.account()).topic(topic);
  const device = await visitor("device");
  device.name = omar.name;
  device.expects(AWAY);
  const asked = new Promise<Route>((resolve) => void device.page.route("**/api/rooms?*", resolve, { times: 1 }));
  await device.fillIn();
  await device.button("Sign in").click();
  const request = await asked;
  await device.context.setOffline(true);
  await device.page.getByText("You are offline.").waitFor();
  await request.abort("internetdisconnected");
  await device.button("Connect now").click();
  await device.page.getByText("You are offline.").waitFor();
  await device.context.setOffline(false);
  await device.room(topic).waitFor();
  await banner(device.page).waitFor({ state: "hidden" });
});

test("signing out with unsent messages asks first, and waits until they are sent", async ({ person, account }) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const topic = `leaving ${omar.name}`;
  const room = await diego.topic(topic);
  await (await omar.account()).join(topic);
  await omar.enter(topic);
  omar.expects(AWAY);
  omar.expects(/status of 401/); // of what it asks with the new connection, if signing out overtakes that
  await omar.context.setOffline(true);
  await omar.page.getByText("You are offline.").waitFor();
  await omar.say("last words");
  await omar.log.getByLabel(WAITS).waitFor();
  await omar.signOut();
  await omar.page.getByText("One message has not been sent yet.").waitFor();
  await omar.button("Stay signed in").click();
  await omar.signOut();
  await omar.page.getByRole("dialog", { name: "Unsent messages" }).waitFor();
  await omar.context.setOffline(false);
  await omar.button("Sign in").waitFor();
  expect((await diego.history(room)).map(({ content }) => content)).toEqual(["last words"]);
});

test("a part whose code cannot be loaded says so, and appears once it can", async ({ visitor }) => {
  const omar = await visitor("omar", { serviceWorkers: "block" });
  omar.expects(AWAY);
  await omar.page.route(/NewTopic|SearchPanel|EmojiGrid/, (route) => route.abort());
  await omar.signUp();
  const topic = `parts ${omar.name}`;
  await (await omar.account()).topic(topic);
  await omar.enter(topic);
  const said = omar.page.getByText("could not be loaded");
  for (const open of [
    () => omar.button("New topic").click(),
    () => omar.page.keyboard.press("Control+Shift+f"),
    () => omar.button("Insert an emoji").click(),
  ]) {
    await open();
    await said.waitFor();
    await omar.page.keyboard.press("Escape");
    await said.waitFor({ state: "hidden" });
  }
  await omar.page.unrouteAll();
  await omar.button("New topic").click();
  await omar.page.getByRole("textbox", { name: "Topic name" }).waitFor();
  await omar.page.keyboard.press("Escape");
  await omar.page.keyboard.press("Control+Shift+f");
  await omar.page.getByRole("searchbox", { name: "Search", exact: true }).waitFor();
});

test("a page that fails shows the error, and keeps unsent messages over the reload", async ({ person }) => {
  const omar = await person("omar");
  const { page } = omar;
  const topic = `broken ${omar.name}`;
  await (await omar.account()).topic(topic);
  await omar.enter(topic);
  const waiting = omar.log.getByLabel(WAITS);
  await omar.say("kept");
  await omar.message("kept").waitFor();
  await waiting.waitFor({ state: "hidden" });
  await page.evaluate(async () => void (await navigator.serviceWorker.ready));
  omar.expects(AWAY);
  await omar.context.setOffline(true);
  await omar.say("unsent");
  await omar.message("unsent").waitFor();
  // The page keeps its rooms a moment after they change.
  await expect.poll(() => page.evaluate(rooms, false)).toBe(1);
  // While the page is away, or it might put them right.
  const chat = page.url();
  await page.goto(`${omar.url}/icon.svg`);
  expect(await page.evaluate(rooms, true)).toBe(1);
  omar.expects(/TypeError/);
  await page.goto(chat);
  await page.getByRole("heading", { name: "Something went wrong on this page." }).waitFor();
  await omar.context.setOffline(false);
  await omar.button("Reload, and fetch all rooms again").click();
  await omar.message("unsent").waitFor();
  await waiting.waitFor({ state: "hidden" });
  await expect(omar.sees(/kept|unsent/)).resolves.toEqual(["kept", "unsent"]);
});

/** Runs in the page. How many rooms it keeps; `broken`: make them what it does not take them for. */
async function rooms(broken: boolean): Promise<number> {
  const [name] = (await indexedDB.databases()).map((one) => one.name ?? "");
  const asked = indexedDB.open(name ?? "");
  const database = await new Promise<IDBDatabase>((resolve) => {
    asked.onsuccess = () => resolve(asked.result);
  });
  let kept = 0;
  const work = database.transaction("rows", "readwrite");
  const cursors = work.objectStore("rows").openCursor();
  cursors.onsuccess = () => {
    const cursor = cursors.result;
    if (cursor === null) return;
    if (String(cursor.key).startsWith("app/room/")) kept += 1;
    if (broken && String(cursor.key).startsWith("app/room/"))
      cursor.update({ ...cursor.value, cursor: 1e9, tail: { ...cursor.value.tail, messages: null } });
    cursor.continue();
  };
  await new Promise((resolve) => {
    work.oncomplete = resolve;
  });
  database.close();
  return kept;
}
