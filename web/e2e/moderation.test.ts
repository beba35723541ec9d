/** Who keeps order in a room, and who is taken into it: what each of them does and sees. */
import type { Person } from "./support/person.ts";
import { member, members, moderate, newConversation, newTopic } from "./support/rooms.ts";
import { expect, test } from "./support/world.ts";

async function join(person: Person, topic: string): Promise<void> {
  await person.button("Find topics").click();
  await person.page.getByRole("searchbox", { name: "Filter topics" }).fill(topic);
  await person.button(`Join ${topic}`).click();
}

/** What one is offered to do about a member. */
async function offered(person: Person, whom: Person): Promise<string[]> {
  await member(person, whom).click();
  await person.page.getByRole("menuitem", { name: "Mention" }).waitFor();
  const items = await person.page.getByRole("menuitem").allTextContents();
  await person.page.keyboard.press("Escape");
  await person.page.getByRole("menu").waitFor({ state: "hidden" });
  return items.map((item) => item.trim());
}

async function closeDialog(person: Person): Promise<void> {
  await person.page.keyboard.press("Escape");
  await person.page.getByRole("dialog").waitFor({ state: "hidden" });
}

test("an unmuted member can write again, and an unbanned user can rejoin", async ({ person }) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  const topic = `order of ${omar.name}`;
  await newTopic(omar, topic);
  await join(lucia, topic);
  await lucia.say("good morning");
  await omar.message("good morning").waitFor();
  await omar.button("Members").click();

  await moderate(omar, lucia, "Mute");
  await lucia.say("may I?");
  const refused = lucia.message("may I?");
  await refused.getByText(/Not sent: muted until/).waitFor();
  await moderate(omar, lucia, "Unmute");
  await refused.getByRole("button", { name: "Try again" }).click();
  await omar.message("may I?").filter({ hasText: lucia.name }).waitFor();
  await refused.getByText("Not sent").waitFor({ state: "hidden" });
  await lucia.say("thank you");
  await omar.message("thank you").waitFor();

  await moderate(omar, lucia, "Ban");
  await lucia.page.getByText(`A moderator banned you from ${topic}.`).waitFor();
  await member(omar, lucia).waitFor({ state: "hidden" });
  await join(lucia, topic);
  await expect.poll(() => lucia.page.getByRole("alert").textContent()).toMatch(/^Banned from this room/);
  await closeDialog(lucia);

  await members(omar).getByText("Banned", { exact: true }).click();
  await members(omar).getByRole("listitem").filter({ hasText: lucia.name }).getByText(/until/).waitFor();
  await omar.button(`Unban ${lucia.name}`).click();
  await members(omar).getByText("No one is banned.").waitFor();
  await join(lucia, topic);
  await lucia.say("here again");
  await omar.message("here again").waitFor();
  await members(omar).getByText("Members", { exact: true }).last().click();
  await member(omar, lucia).waitFor();
});

test("a mute is shown to the muted member, and to moderators in the list of members", async ({ person }) => {
  const [omar, lucia, teresa] = await Promise.all([person("omar"), person("lucia"), person("teresa")]);
  const topic = `hush of ${omar.name}`;
  await newTopic(omar, topic);
  for (const one of [lucia, teresa]) await join(one, topic);
  const row = (one: Person) => members(one).getByRole("listitem").filter({ hasText: lucia.name });
  for (const one of [omar, teresa]) {
    await one.button("Members").click();
    await row(one).waitFor();
  }
  expect(await offered(omar, lucia)).toContain("Mute");
  expect(await offered(omar, lucia)).not.toContain("Unmute");
  await moderate(omar, lucia, "Mute");
  await row(omar).getByText("muted", { exact: true }).waitFor();
  expect(await offered(omar, lucia)).toContain("Unmute");
  expect(await offered(omar, lucia)).not.toContain("Mute");
  const told = lucia.page.getByText(/You are muted in this room until .*\d/);
  // The first key tells, before anything is sent.
  await lucia.box.pressSequentially("m");
  await told.waitFor();
  await lucia.box.clear();
  await lucia.page.reload();
  await told.waitFor();
  await members(teresa).getByRole("button", { name: "Close" }).click();
  await teresa.button("Members").click();
  await row(teresa).waitFor();
  expect(await row(teresa).getByText("muted").count()).toBe(0);
  await moderate(omar, lucia, "Unmute");
  await row(omar).getByText("muted", { exact: true }).waitFor({ state: "hidden" });
  await lucia.say("thank you");
  await omar.message("thank you").waitFor();
  await told.waitFor({ state: "hidden" });
});

test("a member kicked from a public topic is informed and can rejoin with a press", async ({ person }) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  const topic = `revolving ${omar.name}`;
  await newTopic(omar, topic);
  await join(lucia, topic);
  await omar.button("Members").click();
  await moderate(omar, lucia, "Kick");
  await lucia.page.getByText(`A moderator removed you from ${topic}.`).waitFor();
  await lucia.button("Join again").click();
  await lucia.say("here again");
  await omar.message("here again").waitFor();
});

test("the timeline of a group shows who joined, left and renamed it, even after a reload", async ({ person }) => {
  const [omar, lucia, teresa] = await Promise.all([person("omar"), person("lucia"), person("teresa")]);
  const title = `crew of ${omar.name}`;
  await newConversation(omar, [lucia.name, teresa.name], title);
  await lucia.enter(title);
  await omar.say("ahoy");
  await lucia.message("ahoy").waitFor();
  await teresa.enter(title);
  await teresa.menu("More about this room", "Leave");
  await teresa.button("Leave").click();
  await omar.menu("More about this room", "Rename");
  await omar.page.getByRole("dialog").getByRole("textbox", { name: "Name" }).fill(`fleet of ${omar.name}`);
  await omar.button("Rename").click();
  await omar.menu("More about this room", "Invite people");
  await omar.page.getByRole("textbox", { name: "Username" }).fill(teresa.name);
  await omar.button("Invite").click();
  await omar.page.getByText(`${teresa.name} is now a member.`).waitFor();
  await closeDialog(omar);
  await omar.say("aye");
  await lucia.message("aye").waitFor();
  const lines = [
    "ahoy",
    `${teresa.name} left.`,
    `${omar.name} renamed the group to “fleet of ${omar.name}”.`,
    `${teresa.name} joined.`,
    "aye",
  ];
  const shown = () =>
    lucia.log
      .locator(".note, article .content")
      .evaluateAll((rows) => rows.map((row) => row.textContent ?? "").slice(-5));
  await expect.poll(shown).toEqual(lines);
  await lucia.page.reload();
  await lucia.message("aye").waitFor();
  await expect.poll(shown).toEqual(lines);
});

test("an owner who hands over a group becomes a moderator, and both can change its title", async ({ person }) => {
  const [omar, lucia, teresa] = await Promise.all([person("omar"), person("lucia"), person("teresa")]);
  const title = `band of ${omar.name}`;
  await newConversation(omar, [lucia.name, teresa.name], title);
  for (const one of [lucia, teresa]) await one.enter(title);
  for (const one of [omar, lucia]) await one.button("Members").click();
  expect(await offered(lucia, omar)).toEqual(["Profile", "Message", "Mention"]);
  expect(await offered(omar, lucia)).toContain("Transfer ownership");

  await moderate(omar, lucia, "Transfer ownership", "Transfer");
  for (const one of [omar, lucia]) {
    await members(one).getByRole("listitem").filter({ hasText: lucia.name }).getByText("owner").waitFor();
    await members(one).getByRole("listitem").filter({ hasText: omar.name }).getByText("moderator").waitFor();
  }
  expect(await offered(omar, lucia)).toEqual(["Profile", "Message", "Mention"]);
  expect(await offered(omar, teresa)).toContain("Kick");
  expect(await offered(omar, teresa)).not.toContain("Transfer ownership");

  const rename = async (one: Person, to: string) => {
    await one.menu("More about this room", "Rename");
    await one.page.getByRole("dialog").getByRole("textbox", { name: "Name" }).fill(to);
    await one.button("Rename").click();
    await one.page.getByRole("dialog").waitFor({ state: "hidden" });
    for (const each of [omar, lucia, teresa]) {
      await each.page.getByRole("heading", { level: 1, name: to, exact: true }).waitFor();
      await each.room(to).waitFor();
    }
  };
  await rename(lucia, `choir of ${lucia.name}`);
  await rename(omar, `band of ${lucia.name}`);
  await teresa.button("More about this room").click();
  await teresa.page.getByRole("menuitem", { name: "Leave" }).waitFor();
  expect(await teresa.page.getByRole("menuitem", { name: "Rename" }).count()).toBe(0);
  await teresa.page.keyboard.press("Escape");

  await moderate(lucia, omar, "Kick");
  await omar.room(`band of ${lucia.name}`).waitFor({ state: "hidden" });
  await omar.page.getByText(`A moderator removed you from band of ${lucia.name}.`).waitFor();
});

test("an invited user is a member immediately, and has no access after leaving", async ({ person }) => {
  const [omar, lucia, teresa] = await Promise.all([person("omar"), person("lucia"), person("teresa")]);
  const [group, topic] = [`choir of ${omar.name}`, `rehearsal of ${omar.name}`];
  await newTopic(omar, topic, true);
  await newConversation(omar, [teresa.name, (await person("diego")).name], group);
  for (const room of [group, topic]) {
    await omar.enter(room);
    await omar.say(`this is ${room}`);
    await omar.menu("More about this room", "Invite people");
    const dialog = omar.page.getByRole("dialog", { name: `Invite to ${room}` });
    await dialog.getByRole("textbox", { name: "Username" }).fill("nobody of that name");
    await dialog.getByRole("button", { name: "Invite" }).click();
    await dialog.getByRole("alert").waitFor();
    await dialog.getByRole("textbox", { name: "Username" }).fill(lucia.name);
    await dialog.getByRole("button", { name: "Invite" }).click();
    await dialog.getByText(`${lucia.name} is now a member.`).waitFor();
    await closeDialog(omar);
    await lucia.enter(room);
    await lucia.message(`this is ${room}`).waitFor();
    await lucia.say(`I am in ${room}`);
    await omar.message(`I am in ${room}`).waitFor();

    const address = lucia.page.url();
    await omar.button("Members").click();
    await member(omar, lucia).waitFor();
    await lucia.menu("More about this room", "Leave");
    await lucia.page.getByText("You can come back only if somebody invites you.").waitFor();
    await lucia.button("Leave").click();
    await lucia.room(room).waitFor({ state: "hidden" });
    await member(omar, lucia).waitFor({ state: "hidden" });
    await members(omar).getByRole("button", { name: "Close" }).click();
    await lucia.page.goto(address);
    await lucia.page.getByText(`You left ${room}.`).waitFor();
    expect(await lucia.page.getByText(`this is ${room}`).count()).toBe(0);
  }
});

test("an invitation link admits its number of users, and nobody once it is deleted", async ({ person }) => {
  const [omar, lucia, teresa] = await Promise.all([person("omar"), person("lucia"), person("teresa")]);
  const topic = `cellar of ${omar.name}`;
  await newTopic(omar, topic, true);
  await omar.menu("More about this room", "Invitation link");
  const dialog = omar.page.getByRole("dialog", { name: `Invitation link to ${topic}` });
  const links = dialog.getByRole("textbox", { name: "Link", exact: true });
  await dialog.getByRole("textbox", { name: "Maximum uses" }).fill("1");
  await dialog.getByRole("button", { name: "Create link" }).click();
  await dialog.getByText("1 use left").waitFor();
  const once = await links.inputValue();
  await dialog.getByRole("textbox", { name: "Maximum uses" }).fill("");
  await dialog.getByRole("combobox", { name: "Valid for" }).selectOption("Until revoked");
  await dialog.getByRole("button", { name: "Create link" }).click();
  await dialog.getByText("Valid until revoked, unlimited uses.").waitFor();
  const always = await links.first().inputValue();
  expect(always).not.toBe(once);

  const open = async (one: Person, address: string) => {
    await one.page.goto(address);
    await one.page.getByRole("dialog").getByText(`You have been invited to ${topic}.`).waitFor();
    await one.button("Join").click();
  };
  const isTold = (one: Person, what: RegExp) =>
    expect.poll(() => one.page.getByRole("alert").textContent()).toMatch(what);
  await open(lucia, once);
  await lucia.say("by the link");
  await omar.message("by the link").waitFor();
  await open(lucia, always);
  await isTold(lucia, /You are already a member/);
  await closeDialog(lucia);

  await open(teresa, once);
  await isTold(teresa, /no longer valid/);
  await closeDialog(teresa);
  expect(await teresa.room(topic).count()).toBe(0);
  await dialog.getByRole("button", { name: "Revoke", exact: true }).first().click();
  await expect
    .poll(() => links.evaluateAll((fields) => fields.map((field) => (field as HTMLInputElement).value)))
    .toEqual([once]);
  await open(teresa, always);
  await isTold(teresa, /no longer valid/);
  await closeDialog(teresa);

  // Links are found again, also those of others for who moderates.
  await lucia.enter(topic);
  await lucia.menu("More about this room", "Invitation link");
  const hers = lucia.page.getByRole("dialog", { name: `Invitation link to ${topic}` });
  await hers.getByRole("button", { name: "Create link" }).click();
  const third = await hers.getByRole("textbox", { name: "Link", exact: true }).inputValue();
  await omar.page.reload();
  await omar.menu("More about this room", "Invitation link");
  await dialog.getByText(`created by ${lucia.name}`).waitFor();
  expect(await links.inputValue()).toBe(third);
  await dialog.getByRole("button", { name: "Revoke", exact: true }).click();
  await links.waitFor({ state: "hidden" });
  await open(teresa, third);
  await isTold(teresa, /no longer valid/);
});

test("in a topic of moderators a member reads, until the owner lets all members write", async ({ person }) => {
  const [omar, diego] = [await person("omar"), await person("diego")];
  const topic = `news of ${omar.name}`;
  await omar.button("New topic").click();
  const dialog = omar.page.getByRole("dialog", { name: "New topic" });
  await dialog.getByRole("textbox", { name: "Topic name" }).fill(topic);
  await dialog.getByRole("checkbox", { name: "Only moderators can write" }).check();
  await dialog.getByRole("button", { name: "Create" }).click();
  await omar.box.waitFor();
  await omar.say("an announcement");
  await (await diego.account()).join(topic);
  await diego.room(topic).click();
  await diego.message("an announcement").waitFor();
  const notice = diego.page.getByText("Only moderators can write in this room.");
  await notice.waitFor();
  expect(await diego.box.count()).toBe(0);
  // An application's event is not shown, and nothing is missing after it.
  const owner = await omar.account();
  await owner.ask("publish", { topic_name: topic, event: "order.paid", data: { id: 17 } });
  await omar.menu("More about this room", "Let all members write");
  await omar.page.getByRole("dialog").getByRole("button", { name: "Let all write" }).click();
  await diego.box.waitFor();
  await notice.waitFor({ state: "hidden" });
  await diego.say("thank you");
  await omar.message("thank you").waitFor();
  await diego.page.reload();
  await diego.message("thank you").waitFor();
  await diego.page.getByText(`${omar.name} chose that all members can write here.`).waitFor();
  expect(await diego.log.getByText("order.paid").count()).toBe(0);
});
