/** WCAG 2.2 AA: axe-core on every view and dialog, light and dark, phone and desktop; and all of it by keyboard. */
import type { BrowserContextOptions, Locator } from "playwright-core";
import type { Account } from "./support/account.ts";
import { isAccessible } from "./support/axe.ts";
import { AWAY, type Person } from "./support/person.ts";
import { expect, test } from "./support/world.ts";

/** A room in which there is some of all that a room can show. */
async function furnish(diego: Account, omar: Person, topic: string): Promise<void> {
  const room = await diego.topic(topic);
  const program = await omar.account();
  await program.join(topic);
  const first = await diego.say(room, `Hello @${omar.name}, **this** is \`code\` and https://example.org/a`);
  await diego.say(room, "```\na block of code\n```\n> a quotation\n\n1. one\n2. two");
  await program.ask("message", { room_id: room, content: "an answer of mine", reply_to: first.id });
  const removed = await diego.say(room, "a mistake");
  await diego.ask("delete", { message_id: removed.id });
  await diego.ask("react", { message_id: first.id, emoji: "🎉" });
  await program.ask("react", { message_id: first.id, emoji: "👍" });
  const edited = await diego.say(room, "an eror");
  await diego.ask("edit", { message_id: edited.id, content: "an error" });
  await diego.ask("create", { topic_name: `${topic} in private`, is_private: true });
  await diego.ask("invite", { topic_name: `${topic} in private`, username: omar.name });
  const group = await diego.ask("create_conversation", { usernames: [omar.name], title: `${topic} group` });
  await diego.say(group.room_id, "unread");
  const direct = await program.ask("create_conversation", { usernames: [diego.name] });
  await program.say(direct.room_id, "a message of mine");
}

const SIZES: Record<string, BrowserContextOptions> = {
  desktop: { viewport: { width: 1280, height: 800 } },
  phone: { viewport: { width: 390, height: 844 } },
};

for (const [size, options] of Object.entries(SIZES))
  test(`axe-core finds nothing on any view or dialog, light and dark, on a ${size}`, async ({ visitor, account }) => {
    const omar = await visitor("omar", options);
    const { page } = omar;
    const back = async () => {
      if (size === "phone") await omar.button("Back").click();
    };
    const leave = async () => {
      await page.keyboard.press("Escape");
      await page.getByRole("dialog").waitFor({ state: "hidden" });
    };
    await omar.button("Sign in").waitFor();
    await isAccessible(omar, "signing in");
    await omar.chooses("Create account");
    await isAccessible(omar, "creating an account");
    await omar.signUp();
    await isAccessible(omar, "welcome");
    const diego = await account("diego");
    const topic = `everything ${omar.name}`;
    await furnish(diego, omar, topic);
    await omar.room(diego.name).waitFor();
    await isAccessible(omar, "rooms");

    for (const [button, dialog] of [
      ["New topic", "New topic"],
      ["New conversation", "New conversation"],
      ["Find topics", "Find topics"],
    ] as const) {
      await omar.button(button).click();
      await page.getByRole("dialog", { name: dialog }).waitFor();
      await isAccessible(omar, dialog);
      await leave();
    }
    await omar.button("Account").click();
    await page.getByRole("menu").waitFor();
    await isAccessible(omar, "the account's menu");
    await page.getByRole("menuitem", { name: "Settings" }).click();
    for (const tab of ["Appearance", "Devices", "Security", "Privacy", "Account"]) {
      await page.getByRole("tab", { name: tab }).click();
      await page.getByRole("tabpanel", { name: tab }).waitFor();
      await isAccessible(omar, `settings: ${tab}`);
    }
    await leave();
    for (const [item, dialog] of [
      ["Profile and status", "Your profile"],
      ["Join by invitation link", "Join by invitation"],
      ["Keyboard shortcuts", "Keyboard shortcuts"],
    ] as const) {
      await omar.menu("Account", item);
      await page.getByRole("dialog", { name: dialog }).waitFor();
      await isAccessible(omar, dialog);
      await leave();
    }

    await omar.enter(topic);
    await omar.message("an answer of mine").waitFor();
    await isAccessible(omar, "a topic");
    await omar.message("an answer of mine").hover();
    await omar.message("an answer of mine").getByRole("toolbar").waitFor();
    await isAccessible(omar, "the toolbar of a message");
    await omar.act("an answer of mine", "More actions");
    await page.getByRole("menu").waitFor();
    await isAccessible(omar, "the menu of a message");
    await page.keyboard.press("Escape");
    await omar.act("an answer of mine", "Add a reaction");
    await page.getByRole("dialog", { name: "Emoji" }).getByRole("searchbox").waitFor();
    await isAccessible(omar, "all emoji");
    await leave();
    await omar.act("an answer of mine", "Reply");
    await isAccessible(omar, "answering");
    await omar.button("Cancel").click();
    await omar.box.pressSequentially("@");
    await page.getByRole("option").first().waitFor();
    await isAccessible(omar, "completing a name");
    await omar.box.clear();

    await omar.button("Formatting").click();
    await page.getByRole("toolbar", { name: "Formatting" }).waitFor();
    await omar.say("| a | b |\n|--|--|\n| 1 | 2 |", "```python\nx = 'y'  # z\n```");
    await omar.message("# z").locator(".code-comment").waitFor();
    await omar.log.getByRole("table").waitFor();
    // What waits to be sent is paler.
    await expect.poll(() => omar.log.getByLabel("Waiting to be sent").count()).toBe(0);
    await isAccessible(omar, "formatting, a table and code");
    await omar.button("Formatting").click();

    await omar.act("an answer of mine", "Reply in thread");
    const thread = page.getByRole("complementary", { name: "Thread", exact: true });
    await thread.getByRole("textbox").fill("beside it");
    await page.keyboard.press("Enter");
    await thread.getByText("1 reply").waitFor();
    await isAccessible(omar, "a thread");
    await thread.getByRole("button", { name: "Threads" }).click();
    await page.getByRole("complementary", { name: "Threads" }).getByRole("listitem").waitFor();
    await isAccessible(omar, "the threads");
    await omar.button("Close").click();

    await omar.button("More about this room").click();
    await page.getByRole("menu").waitFor();
    await isAccessible(omar, "the room's menu");
    await page.getByRole("menuitem", { name: "Leave" }).click();
    await page.getByRole("dialog", { name: /Leave/ }).waitFor();
    await isAccessible(omar, "leaving");
    await leave();
    await omar.button("Members").click();
    const panel = page.getByRole("complementary", { name: "Members" });
    await panel.getByText(diego.name).waitFor();
    await isAccessible(omar, "members");
    await panel.getByRole("button", { name: "Close" }).click();
    await omar.button("Search in this room").click();
    await page.getByRole("searchbox", { name: "Search", exact: true }).fill("code");
    await page.getByRole("list", { name: "Results" }).getByRole("button").first().waitFor();
    await isAccessible(omar, "search");
    await page.getByRole("complementary", { name: "Search" }).getByRole("button", { name: "Close" }).click();
    await back();

    await omar.enter(`${topic} in private`);
    for (const [item, dialog] of [
      ["Invite people", /Invite to/],
      ["Invitation link", /Invitation link to/],
    ] as const) {
      await omar.menu("More about this room", item);
      await page.getByRole("dialog", { name: dialog }).waitFor();
      await isAccessible(omar, item);
      await leave();
    }
    await back();

    await (await omar.account()).topic(`empty ${omar.name}`);
    await omar.enter(`empty ${omar.name}`);
    await isAccessible(omar, "an empty room");
    await omar.button(/^Say hello/).click();
    await expect.poll(() => omar.box.inputValue()).toBe("Hello 👋 ".trimEnd());
    await back();

    await omar.enter(diego.name);
    await omar.message("a message of mine").waitFor();
    omar.expects(AWAY);
    await omar.context.setOffline(true);
    await page.getByText("You are offline.").waitFor();
    await omar.say("this waits");
    await omar.log.getByLabel("Waiting to be sent").waitFor();
    await isAccessible(omar, "offline");
  });

/** Press Tab until what has the focus is called so. */
async function tabTo({ page }: Person, name: string | RegExp, key = "Tab"): Promise<void> {
  const passed: string[] = [];
  for (let presses = 0; presses < 60; presses++) {
    const focused = page.locator(":focus");
    const snapshot = (await focused.count()) === 0 ? "" : await focused.ariaSnapshot();
    const called = /^- \w+ "([^"]*)"/.exec(snapshot)?.[1] ?? snapshot;
    if (typeof name === "string" ? called === name : name.test(called)) return;
    passed.push(called);
    await page.keyboard.press(key);
  }
  throw new Error(`Tab does not lead to ${name}, but to ${passed.join(", ")}`);
}

/** What is typed goes there. */
async function writesInto({ page }: Person, field: Locator): Promise<void> {
  await field.waitFor();
  await expect.poll(() => page.locator(":focus").ariaSnapshot()).toBe(await field.ariaSnapshot());
}

test("opening a room or a dialog with a field focuses its field", async ({ person, account }) => {
  const omar = await person("omar");
  const { page } = omar;
  const dialogs: [() => Promise<void>, string | RegExp][] = [
    [() => omar.button("New topic").click(), "Topic name"],
    [() => omar.button("New conversation").click(), "Username"],
    [() => omar.button("Find topics").click(), "Filter topics"],
    [() => omar.menu("Account", "Join by invitation link"), "Invitation link"],
  ];
  for (const [open, field] of dialogs) {
    await open();
    const dialog = page.getByRole("dialog");
    await writesInto(
      omar,
      dialog.getByRole("textbox", { name: field }).or(dialog.getByRole("searchbox", { name: field })),
    );
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "hidden" });
  }
  const diego = await account("diego");
  for (const name of ["one", "another"]) {
    const topic = `${name} ${omar.name}`;
    await diego.topic(topic);
    await (await omar.account()).join(topic);
    await omar.room(topic).click();
    await omar.page.getByRole("heading", { name: topic }).first().waitFor();
    await writesInto(omar, omar.box);
  }
});

test("keys typed right after opening the search or a dialog go to its field", async ({ person }) => {
  const omar = await person("omar");
  const { page } = omar;
  const topic = `typist ${omar.name}`;
  await (await omar.account()).topic(topic);
  await omar.enter(topic);
  await hasAllParts(omar);
  const type = (text: string) => Promise.all([...text].map((key) => page.keyboard.press(key)));
  await page.keyboard.press("Control+Shift+f");
  await type("first");
  await expect(page.getByRole("searchbox", { name: "Search", exact: true }).inputValue()).resolves.toBe("first");
  await expect(omar.box.inputValue()).resolves.toBe("");
  await omar.button("New topic").focus();
  await page.keyboard.press("Enter");
  await type("second");
  await expect(page.getByRole("textbox", { name: "Topic name" }).inputValue()).resolves.toBe("second");
});

/** The parts that the page does not begin with come by themselves. */
async function hasAllParts({ page, url }: Person): Promise<void> {
  const files = (await (await page.request.get(`${url}/shell.json`)).json()) as string[];
  // Two are pages of their own. What has a small letter is for some texts only: translations, tables, languages of code.
  const parts = files
    .filter((file) => /\.css$|\/(?:[A-Z]\w*|index|people)-[^/]*\.js$/.test(file) && !/\/(Admin|Reset)-/.test(file))
    .map((file) => `${url}/${file}`);
  const loaded = () => page.evaluate(() => performance.getEntriesByType("resource").map(({ name }) => name));
  await expect.poll(loaded).toEqual(expect.arrayContaining(parts));
  const modules = JSON.stringify(parts.filter((part) => part.endsWith(".js")));
  // They run when an import of our own, and a frame, are over.
  await page.evaluate(
    `Promise.all(${modules}.map((part) => import(part))).then(() => new Promise(requestAnimationFrame))`,
  );
}

test("the keyboard alone suffices to sign up, create a topic, write, answer, edit, search and leave", async ({
  visitor,
}) => {
  const omar = await visitor("omar");
  const { keyboard } = omar.page;
  await omar.button("Sign in").waitFor();
  await tabTo(omar, "Sign in", "Shift+Tab");
  await keyboard.press("ArrowRight");
  await tabTo(omar, "Username");
  await keyboard.type(omar.name);
  await tabTo(omar, "Password");
  await keyboard.type("correct horse");
  await tabTo(omar, "Create account");
  await keyboard.press("Enter");
  await omar.seesChat();

  const topic = `keys ${omar.name}`;
  await tabTo(omar, "New topic");
  await keyboard.press("Enter");
  await writesInto(omar, omar.page.getByRole("textbox", { name: "Topic name" }));
  await keyboard.type(topic);
  await keyboard.press("Enter");
  await omar.page.getByRole("dialog").waitFor({ state: "hidden" });
  await writesInto(omar, omar.box);
  await keyboard.type("first");
  await keyboard.press("Enter");
  await omar.message("first").waitFor();
  const waits = omar.log.getByLabel("Waiting to be sent");
  await waits.waitFor({ state: "hidden" });

  await tabTo(omar, /first/, "Shift+Tab");
  await keyboard.press("r");
  await omar.page.getByText("Replying to").waitFor();
  await expect.poll(() => omar.box.evaluate((box) => box === document.activeElement)).toBe(true);
  await keyboard.type("secont");
  await keyboard.press("Enter");
  await omar.message("secont").waitFor();
  await waits.waitFor({ state: "hidden" });
  // As fast as the keys come, none of them is lost.
  await Promise.all(["ArrowUp", "Backspace", "d", "Enter"].map((key) => keyboard.press(key)));
  await omar.message("second").waitFor();

  await keyboard.press("Control+Shift+f");
  const search = omar.page.getByRole("searchbox", { name: "Search", exact: true });
  await expect.poll(() => search.evaluate((field) => field === document.activeElement)).toBe(true);
  await keyboard.type("first");
  await omar.page.getByText("1 result").waitFor();
  await keyboard.press("ArrowDown");
  await keyboard.press("Enter");
  await expect.poll(() => omar.page.url()).toMatch(/\/\d+$/);
  await tabTo(omar, "Close");
  await keyboard.press("Enter");

  await tabTo(omar, "More about this room");
  await keyboard.press("Enter");
  await keyboard.press("End");
  await keyboard.press("Enter");
  await omar.page.getByRole("dialog", { name: /Leave/ }).waitFor();
  await tabTo(omar, "Leave");
  await keyboard.press("Enter");
  await omar.room(topic).waitFor({ state: "hidden" });
  await omar.page.getByRole("dialog").waitFor({ state: "hidden" });
  await tabTo(omar, "Account");
  await keyboard.press("Enter");
  await keyboard.press("End");
  await keyboard.press("Enter");
  await omar.button("Sign in").waitFor();
});

test("forced colours distinguish the open room, pressed buttons and online users", async ({ person, account }) => {
  const [omar, diego] = [await person("omar"), await account("diego")];
  const program = await omar.account();
  const [here, there] = [`here ${omar.name}`, `there ${omar.name}`];
  const room_id = await program.topic(here);
  await program.topic(there);
  await diego.ask("subscribe", { topic_name: here });
  const message = await diego.say(room_id, "look");
  await program.ask("react", { message_id: message.id, emoji: "👍" });
  await diego.ask("react", { message_id: message.id, emoji: "❤️" });
  await omar.enter(here);
  await omar.message("look").waitFor();
  await omar.page.emulateMedia({ forcedColors: "active" });
  const styleOf = (selector: string, name: "outlineStyle" | "backgroundColor") =>
    omar.page
      .locator(selector)
      .first()
      .evaluate((element, name) => getComputedStyle(element)[name], name);
  expect(await styleOf(".room-row.current", "outlineStyle")).toBe("solid");
  expect(await styleOf(".room-row:not(.current)", "outlineStyle")).toBe("none");
  expect(await styleOf(".reaction[aria-pressed=true]", "outlineStyle")).toBe("solid");
  expect(await styleOf(".reaction[aria-pressed=false]", "outlineStyle")).toBe("none");
  const canvas = await styleOf("body", "backgroundColor");
  await expect.poll(() => styleOf(".avatar > .dot", "backgroundColor")).not.toBe(canvas);
});

test("with a root of 30 px no two rows overlap, and the composer is whole", async ({ person, account }) => {
  const [omar, diego] = [await person("omar"), await account("diego")];
  const program = await omar.account();
  for (const topic of ["one", "two", "three"])
    await program.say(await program.topic(`${topic} ${omar.name}`), "words");
  const direct = await program.ask("create_conversation", { usernames: [diego.name] });
  await diego.say(direct.room_id, "unread");
  const room = `two ${omar.name}`;
  await omar.enter(room);
  await omar.say("first", "second **bold**", "```\na block of code\n```");
  await omar.log.getByText("a block of code").waitFor();
  const heightOf = async () => (await omar.box.boundingBox())?.height ?? 0;
  const small = await heightOf();
  await omar.page.evaluate(() => {
    document.documentElement.style.fontSize = "30px";
  });
  await omar.box.fill("grown");
  await expect.poll(heightOf).toBeGreaterThan(1.6 * small);
  /** Of the parts of a list: how far one reaches over the next (px). */
  const overlap = (parts: string) =>
    omar.page.locator(parts).evaluateAll((all) => {
      const places = all.map((one) => one.getBoundingClientRect()).sort((one, other) => one.top - other.top);
      return Math.max(...places.slice(1).map(({ top }, at) => (places[at]?.bottom ?? 0) - top));
    });
  for (const parts of [".room-row, .section-heading", ".room-row .name, .room-row .preview:not(.hidden)", "article"])
    await expect.poll(() => overlap(parts), { message: parts }).toBeLessThan(2);
  const [box, send] = [
    await omar.page.locator(".composer .box").boundingBox(),
    await omar.button("Send").boundingBox(),
  ];
  const { width, height } = omar.page.viewportSize() ?? { width: 0, height: 0 };
  expect((box?.y ?? height) + (box?.height ?? 0)).toBeLessThanOrEqual(height);
  expect((send?.x ?? width) + (send?.width ?? 0)).toBeLessThanOrEqual(width);
  expect(await omar.page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
});

test("a tooltip says what a button does and its key, under the pointer and the focus, until Escape", async ({
  person,
}) => {
  const omar = await person("omar");
  const tip = omar.page.locator(".tooltip");
  await omar.button("Search").hover();
  await expect.poll(() => tip.innerText()).toMatch(/Search\s+Ctrl Shift F/);
  await isAccessible(omar, "a tooltip");
  await omar.page.keyboard.press("Escape");
  await tip.waitFor({ state: "hidden" });
  await tabTo(omar, "Account");
  await expect.poll(() => tip.innerText()).toBe("Account");
});

test("on a wide screen the details of a room are beside it, until they are closed", async ({ visitor, account }) => {
  const omar = await visitor("omar", { viewport: { width: 1920, height: 1080 } });
  await omar.signUp();
  const diego = await account("diego");
  const topic = `wide ${omar.name}`;
  await furnish(diego, omar, topic);
  await omar.enter(topic);
  const details = omar.page.getByRole("complementary", { name: "Members" });
  await details.getByText(diego.name).waitFor();
  await details.getByText("A public topic").waitFor();
  await writesInto(omar, omar.box);
  await isAccessible(omar, "details");
  await details.getByRole("button", { name: "Close" }).click();
  await details.waitFor({ state: "hidden" });
  await omar.page.reload();
  await omar.message("an answer of mine").waitFor();
  expect(await details.count()).toBe(0);
  await omar.button("Members").click();
  await details.getByText(diego.name).waitFor();
});
