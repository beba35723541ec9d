/** Accounts, sessions and what a browser keeps of them. */
import { readFile } from "node:fs/promises";
import { PASSWORD } from "./support/account.ts";
import { isFocused, Person } from "./support/person.ts";
import { newConversation, newTopic } from "./support/rooms.ts";
import { Server } from "./support/server.ts";
import { expect, test } from "./support/world.ts";

async function openSettings(person: Person, tab: string) {
  await person.menu("Account", "Settings");
  await person.page.getByRole("tab", { name: tab }).click();
  return person.page.getByRole("dialog", { name: "Settings" });
}

/** What is left of somebody in their browser. */
function kept({ page }: Person) {
  return page.evaluate(async () => ({
    databases: (await indexedDB.databases()).map(({ name }) => name),
    session: localStorage.getItem("tidings.session"),
  }));
}

test("a wrong password and a taken name are explained; the right password signs in", async ({ visitor, person }) => {
  const omar = await person("omar");
  const other = await visitor("other");
  other.expects(/status of (401|409)/);
  other.name = omar.name;
  await other.fillIn("wrong horse");
  await other.button("Sign in").click();
  await expect.poll(() => other.page.getByRole("alert").textContent()).toMatch(/password.*“Create account”/);
  await other.chooses("Create account");
  await other.button("Create account").click();
  await expect.poll(() => other.page.getByRole("alert").textContent()).toMatch(/taken/);
  await other.chooses("Sign in");
  await other.signIn();
});

test.for([
  ["invite", "To create an account, open the link of an administrator."],
  ["closed", "New accounts are made by the administrators of this server only."],
] as const)("where registration is not open (%s), the page says so", async ([mode, reason], { browser }) => {
  const server = await Server.start({ TIDINGS_REGISTRATION: mode });
  const omar = await Person.arrive(browser, server.url, "omar");
  try {
    await omar.chooses("Create account");
    await expect.poll(() => omar.page.getByRole("alert").textContent()).toBe(reason);
    if (mode === "invite") {
      await omar.page.goto(await server.command("invite"));
      await omar.page.getByText("You have been invited to create an account here.").waitFor();
      await omar.signUp();
      expect(omar.page.url()).not.toContain("invitation");
      await openAccount(omar);
      expect(await offered(omar)).toBe(0);
      await server.command("user", "admin", omar.name);
      await omar.page.reload();
      await openAccount(omar);
      await expect.poll(() => offered(omar)).toBe(1);
      await omar.button("Create a link").click();
      const link = await omar.page.getByRole("textbox", { name: "Link" }).inputValue();
      const diego = await Person.arrive(browser, server.url, "diego");
      await diego.page.goto(link);
      await diego.signUp();
      await diego.close();
      expect(diego.problems).toEqual([]);
    }
  } finally {
    await omar.close();
    await server.remove();
  }
  expect(omar.problems).toEqual([]);
});

test("signing out deletes all stored data, even after a reload", async ({ person }) => {
  const omar = await person("omar");
  omar.expects(/status of 401/); // of what it asks after the reload, if signing out overtakes that
  const topic = `kept ${omar.name}`;
  const room = await (await omar.account()).topic(topic);
  await omar.enter(topic);
  await omar.say("a secret");
  await omar.message("a secret").waitFor();
  await omar.page.reload();
  await omar.message("a secret").waitFor();
  await omar.signOut();
  await omar.button("Sign in").waitFor();
  await expect.poll(() => kept(omar)).toEqual({ databases: [], session: null });
  await omar.page.goto(`${omar.url}/#/room/${room}`);
  await omar.page.reload();
  await omar.button("Sign in").waitFor();
  expect(await omar.page.getByText("a secret").count()).toBe(0);
});

test("a device can end another device's session, and so does a new password", async ({ visitor, person }) => {
  const omar = await person("omar");
  const phone = await visitor("phone");
  phone.expects(/status of 401/);
  phone.name = omar.name;
  await phone.signIn();

  const settings = await openSettings(omar, "Devices");
  await expect.poll(() => settings.getByRole("listitem").count()).toBe(2);
  await settings.getByText("Signed in just now, in use now").waitFor();
  await phone.page.goto("about:blank");
  await omar.page.keyboard.press("Escape");
  await expect
    .poll(async () =>
      (await (await omar.account()).ask("get_sessions", {})).sessions.map(({ online }) => online).sort(),
    )
    .toEqual([false, true]);
  await openSettings(omar, "Devices");
  await settings.getByText(/^Signed in .*, used within the last hour$/).waitFor();
  await phone.page.goBack();
  await phone.seesChat();
  await settings.getByRole("button", { name: /^Sign out .*, signed in/ }).click();
  await expect.poll(() => settings.getByRole("listitem").count()).toBe(1);
  await phone.page.getByText("This session was signed out. Please sign in again.").waitFor();
  await phone.signIn();

  await settings.getByRole("tab", { name: "Security" }).click();
  await settings.getByLabel("Current password").fill(PASSWORD);
  await settings.getByLabel("New password").fill("another horse");
  await settings.getByLabel("New password").press("Enter");
  await phone.page.getByText("This session was signed out. Please sign in again.").waitFor();
  await phone.signIn("another horse");
  await omar.page.keyboard.press("Escape");
  await omar.seesChat();
});

test("a form shows each problem at its field, in plain words", async ({ person, visitor }) => {
  const [omar, nobody] = await Promise.all([person("omar"), visitor("nobody")]);
  const settings = await openSettings(omar, "Security");
  await settings.getByLabel("Current password").fill("wrong horse");
  await settings.getByLabel("New password").fill("another horse");
  await settings.getByLabel("New password").press("Enter");
  await settings.getByText("This is not your current password.").waitFor();
  expect(await settings.getByLabel("Current password").getAttribute("aria-invalid")).toBe("true");
  expect(await settings.getByLabel("New password").getAttribute("aria-invalid")).toBe(null);
  await settings.getByLabel("Current password").fill(PASSWORD);
  await settings.getByLabel("New password").fill("short");
  await settings.getByLabel("New password").press("Enter");
  await settings.getByText(/must have at least 8 characters/).waitFor();
  expect(await settings.getByLabel("New password").getAttribute("aria-invalid")).toBe("true");
  expect(await settings.getByLabel("Current password").getAttribute("aria-invalid")).toBe(null);

  nobody.expects(/status of 422/);
  await nobody.chooses("Create account");
  await nobody.button("Create account").click();
  await nobody.page.getByText("Enter a username.").waitFor();
  await nobody.page.getByRole("textbox", { name: "Username" }).fill("two words");
  await nobody.button("Create account").click();
  await nobody.page.getByText("Enter a password.").waitFor();
  await nobody.page.getByLabel("Password", { exact: true }).fill(PASSWORD);
  await nobody.page.keyboard.press("Enter");
  await nobody.page.getByText("Username must not contain spaces.").waitFor();
  const invalid = (label: string) => nobody.page.getByLabel(label, { exact: true }).getAttribute("aria-invalid");
  expect([await invalid("Username"), await invalid("Password")]).toEqual(["true", null]);
});

test("the sign-in form does not wait for the code of the chat, and both are small", async ({ visitor, person }) => {
  const omar = await person("omar");
  const device = await visitor("device", { serviceWorkers: "block" });
  device.name = omar.name;
  await device.page.goto("about:blank"); // the first visit may still be loading
  // The browser begins to load the chat meanwhile: what the form needs is in the page itself.
  const needed = new Set((await (await fetch(device.url)).text()).match(/assets\/[\w-]+\.(js|css)/g));
  const sizes: number[] = [];
  const release: (() => void)[] = [];
  await device.context.route(/\/assets\/SignedIn-.*\.js/, async (route) => {
    await new Promise<void>((resolve) => release.push(resolve));
    await route.continue();
  });
  device.page.on("requestfinished", async (request) => {
    const name = new URL(request.url()).pathname.slice(1);
    if (needed.has(name)) sizes.push((await request.sizes()).responseBodySize);
  });
  await device.page.goto(device.url);
  await device.button("Sign in").waitFor();
  await expect.poll(() => release.length).toBe(1);
  await expect.poll(() => sizes.length).toBe(needed.size); // sizes are known a moment after their requests have ended
  const sent = sizes.reduce((sum, size) => sum + size);
  expect(sent).toBeGreaterThan(10_000);
  expect(sent).toBeLessThan(100_000);
  await device.fillIn();
  await device.button("Sign in").click();
  for (const one of release) one();
  await device.seesChat();
});

test("the form is there before the code, which takes it over as it is, with what was typed", async ({ visitor }) => {
  const omar = await visitor("omar", { serviceWorkers: "block" });
  const { page } = omar;
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  await omar.context.route(/\/assets\/index-.*\.js/, async (route) => {
    await held;
    await route.continue();
  });
  await page.goto(omar.url, { waitUntil: "commit" });
  await omar.button("Sign in").waitFor();
  const places = () =>
    page
      .locator(".sign-in :is(img, h1, fieldset, .field, .check, .button)")
      .evaluateAll((parts) => parts.map((part) => JSON.stringify(part.getBoundingClientRect())));
  await page.evaluate(() => document.fonts.ready);
  const before = await places();
  const password = page.getByRole("textbox", { name: "Password", exact: true });
  expect(before.length).toBe(7);
  await page.keyboard.type(omar.name);
  await password.fill(PASSWORD);
  release();
  await page.locator(".sign-in:not([data-first])").waitFor();
  expect(await places()).toEqual(before);
  expect(await password.evaluate(isFocused)).toBe(true);
  await omar.chooses("Create account");
  await omar.button("Create account").click();
  await omar.seesChat();
  // Who is signed in does not see it again.
  await page.reload({ waitUntil: "commit" });
  await omar.seesChat();
});

test("Enter in the form signs in, and creates an account on the page of an invitation", async ({
  person,
  visitor,
}) => {
  const omar = await person("omar");
  const { room_id } = await (await omar.account()).ask("create", {
    topic_name: `for ${omar.name}`,
    is_private: true,
  });
  const { code } = await (await omar.account()).ask("create_invitation_link", { room_id });
  const newcomer = await visitor("newcomer");
  const hint = newcomer.page.getByText("At least 8 characters");
  await newcomer.button("Sign in").waitFor();
  expect(await hint.count()).toBe(0);
  await newcomer.page.goto(`${newcomer.url}/#/join/${code}`);
  await newcomer.page.reload();
  await hint.waitFor();
  await newcomer.fillIn();
  await newcomer.page.keyboard.press("Enter");
  await newcomer.page
    .getByRole("dialog", { name: "Join by invitation" })
    .getByRole("button", { name: "Join" })
    .click();
  await newcomer.box.waitFor();
});

test("Enter in a new conversation adds the typed user, or starts it if none is typed", async ({
  person,
  account,
}) => {
  const omar = await person("omar");
  const [diego, yuki] = [await account("diego"), await account("yuki")];
  const program = await omar.account();
  const topic = await program.topic(`greetings to ${omar.name}`);
  await yuki.join(`greetings to ${omar.name}`);
  await yuki.say(topic, "hello");
  await omar.page.getByText("hello").waitFor();
  const groups = async () =>
    (await program.ask("get_rooms", { member: true })).rooms.filter(({ kind }) => kind === "group");
  await omar.button("New conversation").click();
  const dialog = omar.page.getByRole("dialog", { name: "New conversation" });
  const field = dialog.getByRole("textbox", { name: "Username" });
  for (const { name } of [diego, yuki]) {
    // Yuki is known: nobody has the beginning of that name, and it is the only suggestion.
    await field.fill(name === yuki.name ? "yuk" : name);
    await field.press("Enter");
    await dialog.getByRole("button", { name: `Remove ${name}` }).waitFor();
    await expect.poll(() => field.inputValue()).toBe("");
  }
  expect(await groups()).toEqual([]);
  await field.press("Enter");
  await dialog.waitFor({ state: "hidden" });
  expect((await groups())[0]).toMatchObject({ kind: "group", members: 3 });
});

test("deactivating an account signs out and deletes the stored data; the messages stay", async ({ person }) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  omar.expects(/status of 401/);
  await newConversation(omar, [lucia.name]);
  await omar.say("farewell");
  await lucia.enter(omar.name);
  await lucia.message("farewell").waitFor();
  await lucia.page.getByText("online", { exact: true }).waitFor();
  const other = await omar.context.newPage();
  await other.goto(omar.url);
  await other.getByRole("button", { name: "Account" }).waitFor();

  const settings = await openSettings(omar, "Account");
  await settings.getByRole("button", { name: "Deactivate…" }).click();
  await settings.getByLabel("Your password").fill("wrong horse");
  await settings.getByRole("button", { name: "Deactivate my account" }).click();
  await expect.poll(() => settings.getByRole("alert").textContent()).toMatch(/password/);
  await settings.getByLabel("Your password").fill(PASSWORD);
  await settings.getByRole("button", { name: "Deactivate my account" }).click();
  await omar.button("Sign in").waitFor();
  await other.getByRole("button", { name: "Sign in" }).waitFor();
  await expect.poll(() => kept(omar)).toEqual({ databases: [], session: null });

  await omar.fillIn(PASSWORD);
  await omar.button("Sign in").click();
  await expect.poll(() => omar.page.getByRole("alert").textContent()).toMatch(/wrong username or password/i);
  await lucia.page.getByText("last seen just now").waitFor();
  await lucia.message("farewell").filter({ hasText: omar.name }).waitFor();
  await lucia.say("where are you?");
  await lucia.message("where are you?").getByLabel("Sent").waitFor();
});

test("the download of one's data has own messages, rooms and blocks, and nothing written by others", async ({
  person,
}) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  const topic = `memoirs of ${omar.name}`;
  await newTopic(omar, topic);
  await omar.say("chapter one", "chapter too");
  await omar.act("chapter too", "Edit");
  await omar.box.fill("chapter two");
  await omar.box.press("Enter");
  await omar.message("chapter two").filter({ hasText: "edited" }).waitFor();
  await omar.act("chapter one", "React with 👍");
  await omar.message("chapter one").getByRole("button", { name: "👍 1" }).waitFor();
  await newConversation(lucia, [omar.name]);
  await lucia.say("a word of mine");
  await omar.enter(lucia.name);
  await omar.message("a word of mine").waitFor();

  const settings = await openSettings(omar, "Privacy");
  await settings.getByRole("textbox", { name: "Block a person" }).fill(lucia.name);
  await settings.getByRole("button", { name: "Block", exact: true }).click();
  await settings.getByRole("button", { name: `Unblock ${lucia.name}` }).waitFor();
  await settings.getByRole("tab", { name: "Account" }).click();
  const [download] = await Promise.all([
    omar.page.waitForEvent("download"),
    settings.getByRole("button", { name: "Download my data" }).click(),
  ]);
  expect(download.suggestedFilename()).toBe(`tidings-${omar.name}.jsonl`);
  const text = await readFile(await download.path(), "utf8");
  const lines = text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  const of = (type: string) => lines.filter((line) => line.type === type);
  expect(of("profile")).toMatchObject([{ username: omar.name }]);
  expect(of("session")).toHaveLength(1);
  expect(of("room")).toMatchObject([
    { kind: "topic", topic_name: topic, role: "owner" },
    { kind: "direct", role: "member" },
  ]);
  expect(of("block")).toMatchObject([{ username: lucia.name }]);
  expect(of("message")).toMatchObject([
    { topic_name: topic, content: "chapter one", edited_at: null },
    { topic_name: topic, content: "chapter two", edited_at: expect.any(String) },
  ]);
  expect(of("reaction")).toMatchObject([{ topic_name: topic, emoji: "👍", remove: false }]);
  expect(lines.at(-1)).toEqual({ type: "end", lines: lines.length - 1 });
  expect(text).not.toMatch(/a word of mine|password/);
});

async function openAccount(person: Person): Promise<void> {
  await person.seesChat();
  await person.menu("Account", "Settings");
  await person.page.getByRole("tab", { name: "Account" }).click();
  await person.button("Download my data").waitFor();
}

/** How often the settings offer to invite somebody to the server. */
function offered(person: Person): Promise<number> {
  return person.page.getByRole("heading", { name: "Invite someone to this server" }).count();
}
