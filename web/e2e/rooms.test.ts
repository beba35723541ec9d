/** The list of rooms: what is unread in it is found, and every room has a name of its own. */
import type { Page } from "playwright-core";
import { AWAY, isFocused, type Person } from "./support/person.ts";
import { members, newConversation, newTopic } from "./support/rooms.ts";
import { expect, test } from "./support/world.ts";

test("a direct message in a room out of sight is announced, and one press opens it", async ({ person, account }) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const program = await omar.account();
  for (let at = 0; at < 40; at++) await program.topic(`${omar.name} ${at}`);
  const { room_id } = await diego.ask("create_conversation", { usernames: [omar.name] });
  await omar.room(`${omar.name} 39`).waitFor();
  // Unread rooms stand at the top: one may look elsewhere.
  await omar.page.locator(".room-list").evaluate((list) => list.scrollTo(0, list.scrollHeight));
  await omar.room(`${omar.name} 0`).waitFor();
  await diego.say(room_id, "are you there?");
  const pill = omar.button("1 unread, 1 for you above");
  await pill.waitFor();
  await pill.click();
  await omar.room(diego.name).waitFor();
  await pill.waitFor({ state: "hidden" });
  await omar.enter(diego.name);
  await omar.message("are you there?").waitFor();
  await diego.say(room_id, "good");
  await omar.message("good").waitFor();
  expect(await omar.button(/unread (above|below)/).count()).toBe(0);
});

test("choosing a room ends the filter, and one key reaches the filter", async ({ person }) => {
  const omar = await person("omar");
  const program = await omar.account();
  const [first, second] = [`first ${omar.name}`, `second ${omar.name}`];
  for (const topic of [first, second]) await program.topic(topic);
  const filter = omar.page.getByRole("searchbox", { name: "Filter rooms" });
  await filter.fill("FIRST");
  await omar.room(second).waitFor({ state: "hidden" });
  await omar.enter(first);
  await expect.poll(() => filter.inputValue()).toBe("");
  await omar.room(second).waitFor();
  // Of the room that is open already, too.
  await filter.fill("first");
  await omar.room(first).click();
  await omar.room(second).waitFor();
  await omar.page.keyboard.press("Control+k");
  await omar.page.keyboard.type("second");
  await omar.room(first).waitFor({ state: "hidden" });
  await omar.page.keyboard.press("Enter");
  await omar.page.getByRole("heading", { level: 1, name: second }).waitFor();
  // The page opens where one was.
  await omar.page.goto("about:blank");
  await omar.page.goto(omar.url);
  await omar.page.getByRole("heading", { level: 1, name: second }).waitFor();
});

test("Enter after quick typing opens the room that was typed, and one writes there", async ({ person }) => {
  const omar = await person("omar");
  const program = await omar.account();
  const topics = ["release", "errors", "plans"].map((topic) => `${topic} of ${omar.name}`);
  for (const topic of topics) await program.topic(topic);
  for (let at = 0; at < 150; at++) await program.topic(`${at} ${omar.name}`);
  await omar.room(`149 ${omar.name}`).waitFor();
  for (const topic of topics) {
    await omar.page.keyboard.press("Control+k");
    // Without a wait for the answer to any key: they come as quickly as the page can take them.
    await Promise.all([...topic.slice(0, 5), "Enter"].map((key) => omar.page.keyboard.press(key)));
    await omar.page.getByRole("heading", { level: 1, name: topic, exact: true }).waitFor();
    await expect.poll(() => omar.box.evaluate(isFocused)).toBe(true);
  }
  // The list shows the open room, and follows it to the top when one writes there.
  await omar.room(topics[2] ?? "").waitFor();
  const top = () => omar.page.locator(".room-list").evaluate((list) => list.scrollTop);
  await expect.poll(top).toBeGreaterThan(1000);
  await omar.say("this moves it up");
  await expect.poll(top).toBeLessThan(100);
  // The open room, too: one goes on writing.
  await omar.page.keyboard.press("Control+k");
  await omar.page.keyboard.type("plans");
  await omar.page.keyboard.press("Enter");
  await expect.poll(() => omar.box.evaluate(isFocused)).toBe(true);
});

test("each press on the unread button shows another unread room, those for oneself first", async ({
  person,
  account,
}) => {
  const omar = await person("omar", { reducedMotion: "no-preference" });
  const diego = await account("diego");
  const program = await omar.account();
  const { room_id } = await diego.ask("create_conversation", { usernames: [omar.name] });
  await diego.say(room_id, "for you");
  for (let at = 0; at < 80; at++) {
    const made = await diego.topic(`${at} ${omar.name}`);
    await program.join(`${at} ${omar.name}`);
    await diego.say(made, "news");
  }
  const top = () => omar.page.locator(".room-list").evaluate((list) => list.scrollTop);
  /** Until it moves no more */
  const stands = () =>
    omar.page.locator(".room-list").evaluate(async (list) => {
      const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
      for (let still = 0, last = -1; still < 5; last = list.scrollTop) {
        await frame();
        still = list.scrollTop === last ? still + 1 : 0;
      }
    });
  const [above, below] = [omar.button(/^\d+ unread, 1 for you above$/), omar.button(/^\d+ unread below$/)];
  await omar.room(`79 ${omar.name}`).waitFor();
  await omar.room(diego.name).waitFor();
  let presses = 0;
  for (let before = await top(); (await below.count()) > 0; presses++) {
    await below.click();
    await expect.poll(top).toBeGreaterThan(before);
    await stands();
    before = await top();
  }
  expect(presses).toBeLessThan(10);
  await above.click();
  await expect.poll(top).toBe(0);
});

test("the filter also finds topics that one has not joined, and people by their name", async ({
  person,
  account,
}) => {
  const omar = await person("omar");
  const diego = await account("diego");
  await (await omar.account()).topic(`mine ${omar.name}`);
  await diego.topic(`open to all ${diego.name}`);
  const filter = omar.page.getByRole("searchbox", { name: "Filter rooms" });
  await filter.fill(`OPEN to all ${diego.name}`);
  await omar.button(`Join open to all ${diego.name}`).waitFor();
  await filter.press("Enter");
  await omar.page.getByRole("heading", { level: 1, name: `open to all ${diego.name}`, exact: true }).waitFor();
  await filter.fill(diego.name.toUpperCase());
  await omar.button(`Message ${diego.name}`).click();
  await omar.page.getByRole("heading", { level: 1, name: diego.name, exact: true }).waitFor();
  await expect.poll(() => filter.inputValue()).toBe("");
});

test("a group without a title is named after its other members", async ({ person, account }) => {
  const [omar, yuki] = await Promise.all([person("omar"), person("yuki")]);
  const diego = await account("diego");
  await newConversation(omar, [diego.name, yuki.name]);
  const named = (...names: string[]) => names.sort().join(", ");
  await omar.page.getByRole("heading", { level: 1, name: named(diego.name, yuki.name) }).waitFor();
  await omar.room(named(diego.name, yuki.name)).waitFor();
  await yuki.enter(named(diego.name, omar.name));
  await yuki.button("Members").click();
  await members(yuki).getByText(diego.name).waitFor();
  await expect.poll(() => yuki.page.title()).toContain(named(diego.name, omar.name));
});

test("all rooms can be marked as read", async ({ person, account }) => {
  const omar = await person("omar");
  const program = await omar.account();
  const diego = await account("diego");
  for (const topic of ["one", "another"]) {
    const room_id = await diego.topic(`${topic} ${omar.name}`);
    await program.join(`${topic} ${omar.name}`);
    await diego.say(room_id, "news");
  }
  await expect.poll(() => omar.page.title()).toMatch(/^\(2\)/);
  const unread = async () => (await program.ask("get_rooms", { member: true })).rooms.map((room) => room.unread);
  await omar.menu("Account", "Mark all rooms as read");
  await expect.poll(() => omar.page.title()).toBe("Tidings");
  await expect.poll(unread).toEqual([0, 0]);
  await omar.button("Undo").click();
  await expect.poll(() => omar.page.title()).toMatch(/^\(2\)/);
  await expect.poll(unread).toEqual([1, 1]);
  await omar.menu("Account", "Mark all rooms as read");
  await omar.button("Undo").click();
  await expect.poll(() => omar.page.title()).toMatch(/^\(2\)/);
  await omar.menu("Account", "Mark all rooms as read");
  await expect.poll(() => omar.page.title()).toBe("Tidings");
  await expect
    .poll(async () => (await program.ask("get_rooms", { member: true })).rooms.map((room) => room.unread))
    .toEqual([0, 0]);
});

test("the link to a public topic leads to its name, its members and Join, also through a new account", async ({
  person,
  visitor,
}) => {
  const omar = await person("omar", { permissions: ["clipboard-read", "clipboard-write"] });
  const [lucia, diego] = await Promise.all([person("lucia"), visitor("diego")]);
  const topic = `plans of ${omar.name}`;
  await newTopic(omar, topic);
  await omar.say("welcome");
  await omar.button("Copy link").click();
  await omar.page.getByText("The link was copied.").waitFor();
  const link = await omar.page.evaluate(() => navigator.clipboard.readText());
  const join = async ({ page, box }: Person, members: string) => {
    await page.getByRole("heading", { name: `#${topic}` }).waitFor();
    await page.getByText(`A public topic with ${members}`).waitFor();
    await page.getByRole("button", { name: "Join", exact: true }).click();
    await box.waitFor();
  };
  await lucia.page.goto(link);
  await join(lucia, "1 member");
  await lucia.message("welcome").waitFor();

  await diego.page.goto(link);
  await diego.page.getByRole("status").getByText(`This link leads to #${topic}.`).waitFor();
  await diego.page.getByRole("status").getByText("2 members").waitFor();
  await diego.signUp();
  await join(diego, "2 members");
  await expect.poll(() => new URL(diego.page.url()).hash).toMatch(/^#\/room\/[^/]+$/);
  // Of what is private, or is not there, nothing is said.
  await lucia.page.goto(link.replace(/topic\/[^/]+/, "topic/none"));
  await lucia.page.getByText("This room does not exist, or you are not a member of it.").waitFor();
});

test("after signing in the list of rooms is loaded once, compressed", async ({ person, account, visitor }) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const program = await omar.account();
  for (let at = 0; at < 12; at++) await program.topic(`${omar.name} ${at}`);
  await program.ask("create_conversation", { usernames: [diego.name] });
  const device = await visitor("device");
  device.name = omar.name;
  const asked: { kind: string | null; encoding: string | undefined }[] = [];
  device.page.on("response", (answer) => {
    const url = new URL(answer.url());
    if (url.pathname === "/api/rooms")
      asked.push({ kind: url.searchParams.get("kind"), encoding: answer.headers()["content-encoding"] });
  });
  await device.fillIn();
  await device.button("Sign in").click();
  await device.room(`${omar.name} 11`).waitFor();
  await device.enter(`${omar.name} 11`);
  await device.say("I am here");
  await expect
    .poll(() => asked)
    .toEqual([
      { kind: null, encoding: "gzip" },
      { kind: "direct", encoding: undefined },
    ]);
  // Whoever was away is told of all, for what has no seq.
  await device.page.reload();
  await expect.poll(() => asked.slice(2)).toEqual([{ kind: null, encoding: "gzip" }]);
});

test("a press on a sender or their avatar shows who that is", async ({ person, account }) => {
  const [omar, diego, lucia] = [await person("omar"), await account("diego"), await account("lucia")];
  const topic = `faces ${omar.name}`;
  const room_id = await (await omar.account()).topic(topic);
  for (const one of [diego, lucia]) {
    await one.ask("subscribe", { topic_name: topic });
    await one.say(room_id, `from ${one.name}`);
  }
  await omar.enter(topic);
  const card = (name: string) => omar.page.getByRole("dialog", { name });
  await omar.message(`from ${diego.name}`).getByRole("button", { name: diego.name, exact: true }).click();
  await card(diego.name).waitFor();
  await omar.page.keyboard.press("Escape");
  await card(diego.name).waitFor({ state: "hidden" });
  await omar.message(`from ${lucia.name}`).locator(".avatar").click();
  await card(lucia.name).getByRole("button", { name: "Message" }).waitFor();
});

test("favourites, what a room is for, and what it notifies of are the same on two devices", async ({ person }) => {
  const omar = await person("omar");
  const diego = await person("diego");
  const program = await omar.account();
  const topic = `news of ${omar.name}`;
  await program.topic(topic);
  await omar.enter(topic);
  const other = await omar.context.newPage();
  await other.goto(omar.url);
  const heading = (page: typeof other, name: string) => page.getByRole("heading", { name, exact: true });
  await omar.menu("More about this room", "Set the purpose");
  await omar.page.getByLabel("Purpose").fill("What happened today");
  await omar.button("Save").click();
  await omar.log.getByText("said what this room is for: “What happened today”").waitFor();
  await other.locator(".room-header").getByText("What happened today").waitFor();
  await omar.menu("More about this room", "Move to a section");
  await omar.page.getByRole("textbox", { name: "Section" }).fill(" Trabajo ");
  await omar.button("Save").click();
  await heading(other, "Trabajo").waitFor();
  await omar.menu("More about this room", "Add to favourites");
  await heading(other, "Favourites").waitFor();
  await heading(other, "Trabajo").waitFor({ state: "hidden" });
  // Anybody in a public topic brings others in.
  await omar.menu("More about this room", "Invite people");
  await omar.page.getByLabel("Username").fill(diego.name);
  await omar.button("Invite").click();
  await omar.page.getByText(`${diego.name} is now a member.`).waitFor();
  await omar.page.keyboard.press("Escape");
  await diego.enter(topic);
  await omar.menu("More about this room", "Notifications");
  await omar.page.getByLabel("Nothing; it does not count as unread").check();
  await omar.button("Save").click();
  await other.close();
  await omar.page.goto(`${omar.url}/#/`);
  await omar.page.reload();
  const quiet = `quiet of ${omar.name}`;
  await program.topic(quiet);
  await omar.enter(quiet);
  await diego.say("does anybody hear me?");
  await expect.poll(() => omar.room(topic).getAttribute("data-unread")).toBe("true");
  expect(await heading(omar.page, "Unread").count()).toBe(0);
});

test("a section that is folded on one device is folded on all, also after a change without a connection", async ({
  person,
  visitor,
}) => {
  const omar = await person("omar");
  const topics = (page: Page) => page.getByRole("button", { name: "Topics", exact: true });
  const expanded = (one: Person, value: boolean) =>
    expect.poll(() => topics(one.page).getAttribute("aria-expanded")).toBe(String(value));
  await (await omar.account()).topic(`folded ${omar.name}`);
  await omar.room(`folded ${omar.name}`).waitFor();
  await topics(omar.page).click();
  const phone = await visitor("phone");
  phone.name = omar.name;
  await phone.fillIn();
  await phone.button("Sign in").click();
  await expanded(phone, false);
  await topics(phone.page).click();
  await expanded(omar, true);
  omar.expects(AWAY);
  await omar.context.setOffline(true);
  await omar.page.getByText("You are offline.").waitFor();
  await topics(omar.page).click();
  await expanded(omar, false);
  await omar.context.setOffline(false);
  await expanded(phone, false);
});

test("a room that is marked as unread stays so, on every device, until one comes back to it", async ({ person }) => {
  const omar = await person("omar");
  const diego = await person("diego");
  const program = await omar.account();
  const [topic, elsewhere] = [`long of ${omar.name}`, `other of ${omar.name}`];
  const room_id = await program.topic(topic);
  await program.topic(elsewhere);
  await program.ask("invite", { room_id, username: diego.name });
  await diego.enter(topic);
  for (const text of ["first", "second", "third"]) await diego.say(text);
  await omar.enter(topic);
  await omar.message("third").waitFor();
  await omar.actInMenu("second", "Mark unread from here");
  const row = omar.page.locator(".room-row").filter({ hasText: topic });
  await row.getByText("2 unread.").waitFor();
  await omar.enter(elsewhere);
  await omar.page.reload();
  await row.getByText("2 unread.").waitFor();
  await omar.enter(topic);
  await row.getByText(/unread\.$/).waitFor({ state: "hidden" });
  const kept = async () =>
    (await program.ask("get_rooms", { member: true })).rooms.find((room) => room.room_id === room_id);
  await expect.poll(async () => (await kept())?.unread).toBe(0);
  expect((await kept())?.preferences?.unread_from).toBe(null);
  await omar.page.reload();
  await omar.message("third").waitFor();
  await row.getByText(/unread\.$/).waitFor({ state: "hidden" });
});
