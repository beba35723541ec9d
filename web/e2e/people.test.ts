/** People find each other by name, and say who they are. */
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
  await program.topic(topic);
  await omar.enter(topic);
  await omar.box.pressSequentially(`ask @${lucia.name.slice(0, -1)}`);
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
  const topic = `garden of ${lucia.name}`;
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
