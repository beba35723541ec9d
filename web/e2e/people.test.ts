/** People find each other by name, and say who they are. */
import { PASSWORD } from "./support/account.ts";
import { isFocused } from "./support/person.ts";
import { expect, test } from "./support/world.ts";

test("whoever never met finds a person by the display name: to talk to, to invite and to mention", async ({
  person,
  account,
}) => {
  const omar = await person("omar");
  const lucia = await account("lucia");
  const surname = `Zubiri${lucia.name}`;
  await lucia.ask("set_profile", { display_name: `Lucía ${surname}` });
  await omar.button("New conversation").click();
  const dialog = omar.page.getByRole("dialog", { name: "New conversation" });
  await dialog.getByRole("textbox", { name: "Username" }).fill(surname.slice(0, -1));
  await dialog.getByRole("option", { name: `Lucía ${surname} ${lucia.name}` }).waitFor();
  for (const key of ["ArrowDown", "Enter"]) await omar.page.keyboard.press(key);
  await dialog.getByRole("list", { name: "With" }).getByText(lucia.name).waitFor();
  await omar.page.keyboard.press("Escape");
  // In a topic where she is not.
  const program = await omar.account();
  const topic = `plans of ${omar.name}`;
  await program.topic(topic, true);
  await omar.enter(topic);
  await omar.box.pressSequentially(`ask @${surname}`);
  await omar.page.getByRole("listbox", { name: "Completions" }).getByText(lucia.name, { exact: true }).waitFor();
  await omar.page.keyboard.press("Enter");
  await expect.poll(() => omar.box.inputValue()).toBe(`ask @${lucia.name} `);
  await omar.menu("More about this room", "Invite people");
  const invite = omar.page.getByRole("dialog", { name: `Invite to ${topic}` });
  await invite.getByRole("textbox", { name: "Username" }).fill(surname);
  await invite.getByRole("option", { name: new RegExp(surname) }).click();
  await invite.getByRole("button", { name: "Invite", exact: true }).click();
  await invite.getByText(`${lucia.name} is now a member.`).waitFor();
});

test("Ctrl+K and Enter join a topic and write to a person, however quickly they are typed", async ({
  person,
  account,
}) => {
  const omar = await person("omar");
  const lucia = await account("lucia");
  const program = await omar.account();
  const own = `own of ${omar.name}`;
  await program.topic(own);
  const topic = `garden of ${omar.name}`;
  await lucia.topic(topic);
  await omar.enter(own);
  const filter = omar.page.getByRole("searchbox", { name: "Filter rooms" });
  const jump = async (typed: string) => {
    await omar.page.keyboard.press("Control+k");
    await Promise.all([...typed, "Enter"].map((key) => omar.page.keyboard.press(key)));
  };
  // The box keeps the focus that Escape gives back.
  await omar.box.focus();
  await omar.page.keyboard.press("Control+k");
  await omar.page.keyboard.type("garden");
  await omar.page
    .getByRole("region", { name: "Topics to join" })
    .getByRole("button", { name: `Join ${topic}` })
    .waitFor();
  await omar.page.keyboard.press("Escape");
  await expect.poll(() => omar.box.evaluate(isFocused)).toBe(true);
  expect(await filter.inputValue()).toBe("");
  await jump(topic);
  await omar.page.getByRole("heading", { level: 1, name: topic, exact: true }).waitFor();
  await omar.box.waitFor();
  await jump(lucia.name);
  await omar.page.getByRole("heading", { level: 1, name: lucia.name, exact: true }).waitFor();
  await jump("own of");
  await omar.page.getByRole("heading", { level: 1, name: own, exact: true }).waitFor();
});

test("a card says who somebody is now, and does what one may do about them", async ({ person, account }) => {
  const omar = await person("omar");
  const lucia = await account("lucia");
  const topic = `cards of ${omar.name}`;
  const room_id = await lucia.topic(topic);
  await (await omar.account()).join(topic);
  await lucia.say(room_id, `good morning @${omar.name}`);
  await omar.enter(topic);
  const shown = `Lucía of ${omar.name}`;
  await lucia.ask("set_profile", {
    display_name: shown,
    status: { text: "In the garden", emoji: "🌴", expires_in: 3600 },
    do_not_disturb: 3600,
  });
  const sender = omar.message("good morning").locator("button.sender");
  await expect.poll(() => sender.textContent()).toBe(shown);
  await omar.message("good morning").locator(".moon").waitFor();
  await omar.message("good morning").locator(".mention").click();
  await omar.page.getByRole("dialog", { name: omar.name }).waitFor();
  await omar.page.keyboard.press("Escape");
  await sender.click();
  const card = omar.page.getByRole("dialog", { name: shown });
  for (const text of [`@${lucia.name} · online`, "🌴 In the garden until", "Do not disturb until"])
    await card.getByText(text).waitFor();
  await card.getByRole("button", { name: "Mention" }).click();
  await expect.poll(() => omar.box.inputValue()).toBe(`@${lucia.name} `);
  await sender.click();
  await card.getByRole("button", { name: "Block" }).click();
  await card.getByRole("button", { name: "Unblock" }).click();
  await card.getByRole("button", { name: "Block", exact: true }).waitFor();
  await card.getByRole("button", { name: "Message" }).click();
  await omar.page.getByRole("heading", { level: 1, name: shown, exact: true }).waitFor();
});

test("the own profile is edited in the account's menu, and others see it at once", async ({ person, account }) => {
  const omar = await person("omar");
  const lucia = await account("lucia");
  await lucia.ask("create_conversation", { usernames: [omar.name] });
  await omar.room(lucia.name).waitFor();
  const told = lucia.event("profile", ({ username }) => username === omar.name);
  await omar.menu("Account", "Profile and status");
  const dialog = omar.page.getByRole("dialog", { name: "Your profile" });
  await dialog.getByRole("textbox", { name: "Display name" }).fill("Omar Haddad");
  await dialog.getByRole("textbox", { name: "Status" }).fill("Reading");
  await dialog.getByRole("combobox", { name: "Clear the status" }).selectOption("After 4 hours");
  await dialog.getByRole("combobox", { name: "Do not disturb" }).selectOption("For 1 hour");
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.waitFor({ state: "hidden" });
  const { display_name, status, do_not_disturb_until } = await told;
  expect([display_name, status?.text]).toEqual(["Omar Haddad", "Reading"]);
  const hours = (until: string | null | undefined) => (Date.parse(until ?? "") - Date.now()) / 3_600_000;
  expect(hours(status?.until)).toBeCloseTo(4, 1);
  expect(hours(do_not_disturb_until)).toBeCloseTo(1, 1);
  const own = omar.page.locator(".account");
  await own.getByText(/Omar Haddad\s+Reading/).waitFor();
  await own.locator(".moon").waitFor();
});

test("a conversation is called by the other's display name, before it was opened, and found by either name", async ({
  person,
  account,
}) => {
  const omar = await person("omar");
  const lucia = await account("lucia");
  const shown = `Señora ${lucia.name.toUpperCase()}`;
  await lucia.ask("set_profile", { display_name: shown });
  await lucia.ask("create_conversation", { usernames: [omar.name] });
  await omar.room(shown).waitFor();
  const filter = omar.page.getByRole("searchbox", { name: "Filter rooms" });
  for (const name of [shown, lucia.name]) {
    await filter.fill(name);
    await omar.room(shown).waitFor();
  }
  await filter.press("Enter");
  await omar.page.getByRole("heading", { level: 1, name: shown, exact: true }).waitFor();
});

test("a search takes filters, and says what is wrong with one", async ({ person, account }) => {
  const omar = await person("omar");
  const lucia = await account("lucia");
  const topic = `search of ${omar.name}`;
  const room_id = await lucia.topic(topic);
  const program = await omar.account();
  await program.join(topic);
  await lucia.say(room_id, "lunch at noon");
  await program.say(room_id, "lunch at one");
  await omar.enter(topic);
  await omar.button("Search in this room").click();
  const field = omar.page.getByRole("searchbox", { name: "Search", exact: true });
  const results = omar.page.getByRole("list", { name: "Results" });
  await field.fill(`from:${lucia.name} lun`);
  await omar.page.getByText("1 result", { exact: true }).waitFor();
  await results.getByText("at noon").waitFor();
  const later = new Date(Date.now() + 2 * 86_400_000).toISOString().slice(0, 10);
  await field.fill(`lunch after:${later}`);
  await omar.page.getByText("No results").waitFor();
  for (const [wrong, said] of [
    ["from:nobody-at-all", /no such user/i],
    ["lunch after:yesterday", /take a date/i],
    ["...", "Enter a word to search for."],
  ] as const) {
    await field.fill(wrong);
    await omar.page.getByRole("alert").getByText(said).waitFor();
  }
});

test("a reported message reaches the moderator, who deletes it and closes the report", async ({
  person,
  account,
}) => {
  const omar = await person("omar");
  const lucia = await person("lucia");
  const troll = await account("troll");
  const topic = `order of ${omar.name}`;
  const room_id = await (await omar.account()).topic(topic);
  for (const member of [await lucia.account(), troll]) await member.join(topic);
  await troll.say(room_id, "buy my watches");
  await omar.enter(topic);
  await lucia.enter(topic);
  await lucia.actInMenu("buy my watches", "Report");
  const asking = lucia.page.getByRole("dialog", { name: "Report this message?" });
  await asking.getByRole("textbox", { name: "Reason" }).fill("advertising");
  await asking.getByRole("button", { name: "Report" }).click();
  await asking.waitFor({ state: "hidden" });
  await omar.menu("More about this room", "Reports (1)");
  const reports = omar.page.getByRole("dialog", { name: "Reports" });
  for (const text of ["advertising", "buy my watches", lucia.name]) await reports.getByText(text).first().waitFor();
  await reports.getByRole("button", { name: "Delete message" }).click();
  await reports.getByText("The message was deleted since.").waitFor();
  await reports.getByRole("button", { name: "Close report" }).click();
  await reports.getByText("There are no open reports.").waitFor();
  await lucia.message("This message was deleted.").waitFor();
});

test("an account is deleted with its messages, after the password", async ({ person, account }) => {
  const omar = await person("omar");
  const lucia = await account("lucia");
  const topic = `leaving of ${omar.name}`;
  const room_id = await lucia.topic(topic);
  const program = await omar.account();
  await program.join(topic);
  await program.say(room_id, "my secret");
  await omar.menu("Account", "Settings");
  await omar.page.getByRole("tab", { name: "Account" }).click();
  await omar.button("Delete…").click();
  await omar.page.getByRole("radio", { name: "Is deleted, too" }).check();
  await omar.page.getByLabel("Your password").fill(PASSWORD);
  await omar.button("Delete my account for ever").click();
  await omar.button("Sign in").waitFor();
  await expect.poll(async () => (await lucia.history(room_id)).map(({ content }) => content).join()).toBe("");
});
