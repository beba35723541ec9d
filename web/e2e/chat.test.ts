/** Two people in two browsers, through what one does in a chat. */
import { AWAY, isFocused, type Person } from "./support/person.ts";
import { members, moderate, newConversation, newTopic } from "./support/rooms.ts";
import { expect, test } from "./support/world.ts";

/** What is said of a room in the sidebar besides its name. */
async function about(person: Person, room: string): Promise<string> {
  const described = (await person.room(room).getAttribute("aria-describedby")) ?? "";
  const ids = described.split(" ").map((id) => `[id="${id}"]`);
  return (await person.page.locator(ids.join()).allTextContents()).join(" ");
}

test("two people meet in a new topic and read each other's messages in order", async ({ person }) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  const topic = `garden of ${omar.name}`;
  await newTopic(omar, topic);
  await omar.say("who waters the tomatoes?");

  await lucia.button("Find topics").click();
  await lucia.page.getByRole("searchbox", { name: "Filter topics" }).fill(topic);
  await lucia.button(`Join ${topic}`).click();
  await lucia.message("who waters the tomatoes?").filter({ hasText: omar.name }).waitFor();
  await lucia.box.pressSequentially("I ");
  await omar.page.getByText(`${lucia.name} is typing`).first().waitFor();
  await lucia.box.clear();
  await lucia.say("I do", "every **morning**, see https://example.org/x and `code`");
  await omar.message("I do").filter({ hasText: lucia.name }).waitFor();
  const markdown = omar.message("every morning");
  await markdown.locator("strong", { hasText: "morning" }).waitFor();
  await markdown.locator("code", { hasText: "code" }).waitFor();
  const link = markdown.getByRole("link", { name: "https://example.org/x" });
  expect(await link.getAttribute("rel")).toContain("noopener");
  for (const one of [omar, lucia])
    expect(await one.sees(/who waters|I do|every morning/)).toEqual(["who waters", "I do", "every morning"]);

  await omar.menu("More about this room", "Leave");
  await omar.button("Leave").click();
  await omar.room(topic).waitFor({ state: "hidden" });
});

test("a message can be edited, deleted, reacted to, answered and linked", async ({ person }) => {
  const [omar, lucia] = await Promise.all([
    person("omar", { permissions: ["clipboard-read", "clipboard-write"] }),
    person("lucia"),
  ]);
  await newConversation(omar, [lucia.name]);
  await omar.say("furst", "second");
  await lucia.enter(omar.name);
  await lucia.message("second").waitFor();

  await omar.act("furst", "Edit");
  await omar.box.fill("first");
  await omar.box.press("Enter");
  await lucia.message("first").filter({ hasText: "edited" }).waitFor();

  await lucia.act("first", "React with 👍");
  await omar.message("first").getByRole("button", { name: "👍 1" }).click();
  await lucia.message("first").getByRole("button", { name: "👍 2", pressed: true }).waitFor();

  await lucia.act("first", "Reply");
  await lucia.say("an answer");
  await omar
    .message("an answer")
    .getByRole("button", { name: /In reply to.*first/ })
    .waitFor();

  await omar.actInMenu("first", "Copy link");
  const copied = () => omar.page.evaluate(() => navigator.clipboard.readText());
  await expect.poll(copied).toMatch(new RegExp(`^${omar.url}/#/room/[^/]+/\\d+$`));
  const address = await copied();
  await lucia.page.goto(address);
  await lucia.message("first").first().waitFor();

  await omar.actInMenu("second", "Delete");
  await omar.page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  for (const one of [omar, lucia]) await one.message("This message was deleted.").waitFor();
  expect(await lucia.message("second").count()).toBe(0);
});

test("text selected right after beginning an edit stays selected", async ({ person }) => {
  const omar = await person("omar");
  const topic = `selected by ${omar.name}`;
  await (await omar.account()).topic(topic);
  await omar.enter(topic);
  await omar.say("furst");
  await omar.message("furst").hover();
  const edit = omar.message("furst").getByRole("button", { name: "Edit", exact: true });
  // As on a slow machine: they are in the box before the next frame.
  const selected = edit.evaluate(async (button: HTMLElement) => {
    const box = document.querySelector(".composer textarea") as HTMLTextAreaElement;
    const frames: FrameRequestCallback[] = [];
    const draw = window.requestAnimationFrame;
    window.requestAnimationFrame = (frame) => frames.push(frame);
    button.focus();
    button.click();
    while (box.value === "" || frames.length === 0) await new Promise((resolve) => setTimeout(resolve));
    box.focus();
    box.select();
    window.requestAnimationFrame = draw;
    for (const frame of frames) frame(performance.now());
    return box.value.slice(box.selectionStart, box.selectionEnd);
  });
  await expect(selected).resolves.toBe("furst");
});

test("a conversation shows delivered and read messages, and the sidebar unread ones", async ({ person, account }) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  const teresa = await account("teresa");
  await newConversation(omar, [lucia.name]);
  await omar.say("are you there?");
  await omar.message("are you there?").getByLabel("Delivered").waitFor();
  await expect.poll(() => about(lucia, omar.name)).toMatch(/1 unread/);
  await expect.poll(() => lucia.page.title()).toMatch(/^\(1\)/);
  await lucia.enter(omar.name);
  await omar.message("are you there?").getByLabel("Read").waitFor();
  await expect.poll(() => about(lucia, omar.name)).not.toMatch(/unread/);
  await expect.poll(() => lucia.page.title()).not.toMatch(/^\(/);

  await newConversation(omar, [lucia.name, teresa.name], "three");
  await omar.say(`@${lucia.name} look`);
  await expect.poll(() => about(lucia, "three")).toMatch(/you are mentioned, *1 unread/);
  await lucia.enter("three");
  await lucia.message("look").waitFor();
  await expect.poll(() => about(lucia, "three")).not.toMatch(/mentioned|unread/);
});

test("a private topic is joined by invitation or link only; its moderator can mute, kick and ban", async ({
  person,
}) => {
  const [omar, lucia, teresa] = await Promise.all([person("omar"), person("lucia"), person("teresa")]);
  const topic = `secret of ${omar.name}`;
  await newTopic(omar, topic, true);
  await omar.menu("More about this room", "Invite people");
  await omar.page.getByRole("textbox", { name: "Username" }).fill(lucia.name);
  await omar.button("Invite").click();
  await lucia.enter(topic);
  await omar.page.keyboard.press("Escape");

  await omar.menu("More about this room", "Invitation link");
  await omar.button("Create link").click();
  const address = await omar.page.getByRole("textbox", { name: "Link", exact: true }).inputValue();
  await omar.page.keyboard.press("Escape");
  expect(await teresa.room(topic).count()).toBe(0);
  await teresa.page.goto(address);
  await teresa.button("Join").click();
  await teresa.box.waitFor();
  await teresa.say("here I am");
  await omar.message("here I am").waitFor();

  await omar.button("Members").click();
  await moderate(omar, lucia, "Make moderator");
  await expect.poll(() => members(omar).textContent()).toMatch(new RegExp(`${lucia.name}moderator`));
  await moderate(omar, teresa, "Mute");
  await teresa.say("may I?");
  await teresa
    .message("may I?")
    .getByText(/Not sent/)
    .waitFor();
  await teresa.button("Discard").click();
  await teresa.message("may I?").waitFor({ state: "hidden" });
  await moderate(omar, teresa, "Kick");
  await teresa.room(topic).waitFor({ state: "hidden" });
  await moderate(omar, lucia, "Ban");
  await lucia.room(topic).waitFor({ state: "hidden" });
});

test("a search covers all rooms, and a press opens a result however old it is", async ({ person, account }) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const topic = `archive ${omar.name}`;
  const room = await diego.topic(topic);
  await diego.say(room, "the needle in the haystack");
  await Promise.all(Array.from({ length: 400 }, (_, at) => diego.say(room, `hay ${at}`)));
  await (await omar.account()).join(topic);
  await omar.enter(topic);
  await omar.message("hay 399").waitFor();
  await omar.page.keyboard.press("Control+Shift+f");
  await omar.page.getByRole("searchbox", { name: "Search", exact: true }).fill("needle");
  await omar.page.getByRole("list", { name: "Results" }).getByRole("button").first().click();
  await omar.message("the needle in the haystack").waitFor();
  await omar.button("Jump to newest").click();
  await omar.message("hay 399").waitFor();
});

test("emoji are found and chosen by pointer and keyboard, while writing and as reactions", async ({ person }) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  await newConversation(omar, [lucia.name]);
  const picker = ({ page }: Person) => page.getByRole("dialog", { name: "Emoji" });
  const pick = async (who: Person, name: string) => {
    await picker(who).getByRole("searchbox").fill(name);
    await picker(who).getByRole("gridcell", { name, exact: true }).click();
    await picker(who).waitFor({ state: "hidden" });
  };
  /** At the keyboard: the second below the first that is found. Answers which it was. */
  const type = async (who: Person, name: string) => {
    await expect
      .poll(() => picker(who).getByRole("searchbox").evaluate(isFocused), { message: "one can search at once" })
      .toBe(true);
    // All of it at once: what a part of the word finds would be on the screen for a moment, and be chosen from.
    await who.page.keyboard.insertText(name);
    await picker(who).getByRole("gridcell", { name: "Grinning face", exact: true }).waitFor({ state: "hidden" });
    await picker(who).getByRole("gridcell", { name, exact: true }).waitFor();
    for (const key of ["ArrowDown", "ArrowRight"]) await who.page.keyboard.press(key);
    const chosen = await picker(who).getByRole("gridcell", { selected: true }).textContent();
    await who.page.keyboard.press("Enter");
    await picker(who).waitFor({ state: "hidden" });
    return chosen ?? "";
  };

  await omar.box.fill("ripe ones");
  for (let presses = 0; presses < "ones".length; presses++) await omar.box.press("ArrowLeft");
  await omar.button("Insert an emoji").click();
  await pick(omar, "Tomato");
  await expect.poll(() => omar.box.evaluate(isFocused)).toBe(true);
  await omar.page.keyboard.type(" ");
  await omar.page.keyboard.press("Enter");
  await lucia.enter(omar.name);
  await lucia.message("ripe 🍅 ones").waitFor();

  await lucia.act("ripe 🍅 ones", "Add a reaction");
  await pick(lucia, "Rocket");
  await omar.message("ripe").getByRole("button", { name: "🚀 1" }).waitFor();

  await lucia.button("Insert an emoji").click();
  await picker(lucia).getByRole("group", { name: "Used most often" }).getByRole("button", { name: "🚀" }).waitFor();
  await lucia.page.keyboard.press("Escape");
  await picker(lucia).waitFor({ state: "hidden" });

  await lucia.button("Insert an emoji").focus();
  await lucia.page.keyboard.press("Enter");
  const written = await type(lucia, "Red heart");
  await expect.poll(() => lucia.box.evaluate(isFocused)).toBe(true);
  await lucia.page.keyboard.press("Enter");
  await omar.message(written).filter({ hasText: lucia.name }).waitFor();

  await omar.message("ripe").focus();
  await omar.page.keyboard.press("+");
  const reaction = await type(omar, "Red heart");
  expect(reaction).toBe(written);
  await lucia
    .message("ripe")
    .getByRole("button", { name: `${reaction} 1` })
    .waitFor();
  await expect.poll(() => omar.message("ripe").evaluate((row) => row.contains(document.activeElement))).toBe(true);

  // By its very name, also if that is a part of others: 🧑‍🚀 is found first.
  await omar.button("Insert an emoji").click();
  await picker(omar).getByRole("searchbox").fill("rocket");
  await picker(omar).getByRole("status").getByText("🚀 rocket").waitFor();
  await omar.page.keyboard.press("Enter");
  await picker(omar).waitFor({ state: "hidden" });
  await expect.poll(() => omar.box.inputValue()).toBe("🚀");
  await omar.box.fill("");
  await omar.box.pressSequentially("done :tada:");
  await expect.poll(() => omar.box.inputValue()).toBe("done 🎉");
  await omar.box.fill("");

  await omar.message("ripe").focus();
  await omar.page.keyboard.press("+");
  await picker(omar).getByRole("searchbox").waitFor();
  await omar.page.keyboard.press("Escape");
  await picker(omar).waitFor({ state: "hidden" });
  await expect.poll(() => omar.message("ripe").evaluate((row) => row.contains(document.activeElement))).toBe(true);
});

test("the sidebar, the room and its members show who comes online and goes offline", async ({ person, account }) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  const teresa = await account("teresa");
  await newConversation(omar, [lucia.name, teresa.name], "three");
  await newConversation(omar, [lucia.name]);
  const inRoom = (text: string) => omar.page.getByRole("region", { name: "Room" }).getByText(text, { exact: true });
  const isThere = async () => {
    await expect.poll(() => about(omar, lucia.name)).toMatch(/Online/);
    await omar.enter(lucia.name);
    await inRoom("online").waitFor();
    await members(omar).getByRole("heading", { name: "Online (2)" }).waitFor();
    await omar.enter("three");
    await inRoom("3 members, 2 online").waitFor();
    await members(omar).getByRole("heading", { name: "Offline (1)" }).waitFor();
  };
  await newTopic(omar, `open to ${omar.name}`);
  await omar.button("Members").click();
  await inRoom("1 member, 1 online").waitFor();
  const program = await lucia.account();
  await program.join(`open to ${omar.name}`);
  await inRoom("2 members, 2 online").waitFor();
  await program.leave();
  await isThere();
  await expect.poll(() => about(lucia, omar.name)).toMatch(/Online/);

  await lucia.page.close();
  await expect.poll(() => about(omar, lucia.name)).not.toMatch(/Online/);
  await inRoom("3 members, 1 online").waitFor();
  await members(omar).getByRole("heading", { name: "Offline (2)" }).waitFor();
  await omar.enter(lucia.name);
  await inRoom("last seen just now").waitFor();
  await members(omar).getByRole("heading", { name: "Offline (1)" }).waitFor();

  lucia.page = await lucia.context.newPage();
  await lucia.page.goto(lucia.url);
  await lucia.seesChat();
  await isThere();
  await expect.poll(() => about(lucia, omar.name)).toMatch(/Online/);

  // Who has no connection does not know who has.
  omar.expects(AWAY);
  await omar.context.setOffline(true);
  await expect.poll(() => about(omar, lucia.name)).not.toMatch(/Online/);
  await expect.poll(() => about(lucia, omar.name)).not.toMatch(/Online/);
  await omar.context.setOffline(false);
  await isThere();
  await expect.poll(() => about(lucia, omar.name)).toMatch(/Online/);
});

test("sending while a name is being completed sends the text as typed and ends the completion", async ({
  person,
  account,
}) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const topic = `names of ${omar.name}`;
  await newTopic(omar, topic);
  await diego.join(topic);
  await omar.box.pressSequentially(`hola @${diego.name}`);
  await omar.page.getByRole("option", { name: diego.name }).waitFor();
  await omar.button("Send").click();
  await omar.message(`hola @${diego.name}`).waitFor();
  await omar.page.getByRole("option").waitFor({ state: "hidden" });
});
