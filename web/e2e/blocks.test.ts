/** Who is blocked is kept away, is told what is refused, and not by whom it is read or who is there. */
import { newConversation } from "./support/rooms.ts";
import { expect, test } from "./support/world.ts";

test("a blocked user cannot write in the conversation until unblocked, and the other user can", async ({
  person,
  account,
}) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  const teresa = await account("teresa");
  await newConversation(omar, [lucia.name]);
  await omar.say("hello");
  await lucia.enter(omar.name);
  await lucia.say("hello yourself");
  await omar.message("hello yourself").waitFor();
  for (const one of [omar, lucia]) await one.page.getByText("online", { exact: true }).waitFor();
  // Before the block, after which no receipt goes to lucia any more.
  await lucia.message("hello yourself").getByLabel("Read").waitFor();

  await omar.menu("More about this room", "Block");
  await omar.button("Block").click();
  await omar.page.getByText("You have blocked this person.").waitFor();
  await lucia.page.getByText("online", { exact: true }).waitFor({ state: "hidden" });

  const why = /this user does not accept messages from you/i;
  await lucia.say("why?");
  await lucia
    .message("why?")
    .getByText(/Not sent/)
    .filter({ hasText: why })
    .waitFor();
  await lucia.message("hello yourself").getByLabel("Read").waitFor();
  await lucia.act("hello", "React with 👍");
  await lucia.page.getByRole("status").filter({ hasText: why }).waitFor();
  await lucia.act("hello yourself", "Edit");
  await lucia.box.fill("hello not at all");
  await lucia.box.press("Enter");
  await lucia.page.locator(".composer").getByText(why).waitFor();
  await lucia.button("Cancel").click();
  await lucia.button("New conversation").click();
  const dialog = lucia.page.getByRole("dialog", { name: "New conversation" });
  for (const other of [omar.name, teresa.name]) {
    await dialog.getByRole("textbox", { name: "Username" }).fill(other);
    await dialog.getByRole("button", { name: "Add", exact: true }).click();
    await dialog.getByRole("button", { name: `Remove ${other}` }).waitFor();
  }
  await dialog.getByRole("button", { name: "Start" }).click();
  await expect.poll(() => dialog.getByRole("alert").textContent()).toMatch(/you/);
  await lucia.page.keyboard.press("Escape");
  await omar.say("I may");
  await lucia.message("I may").waitFor();
  expect(await omar.message(/why|not at all/).count()).toBe(0);

  await omar.page.reload();
  await omar.page.getByText("You have blocked this person.").waitFor();
  await omar.menu("More about this room", "Unblock");
  await omar.button("Unblock").click();
  await omar.page.getByText("online", { exact: true }).waitFor();
  await lucia.page.getByText("online", { exact: true }).waitFor();
  await lucia.message("why?").getByRole("button", { name: "Try again" }).click();
  await omar.message("why?").waitFor();
});

test("blocking or unblocking in the settings updates the open conversation", async ({ person }) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  await newConversation(omar, [lucia.name]);
  await omar.menu("Account", "Settings");
  const settings = omar.page.getByRole("dialog", { name: "Settings" });
  await settings.getByRole("tab", { name: "Privacy" }).click();
  await settings.getByText("You have not blocked anyone.").waitFor();
  const name = settings.getByRole("textbox", { name: "Block a person" });
  await name.fill("nobody of that name");
  await name.press("Enter");
  await settings.getByRole("alert").waitFor();
  await name.fill(lucia.name);
  await name.press("Enter");
  const unblock = settings.getByRole("button", { name: `Unblock ${lucia.name}` });
  await unblock.waitFor();
  const told = omar.page.getByText("You have blocked this person.");
  await told.waitFor();
  await unblock.click();
  await settings.getByText("You have not blocked anyone.").waitFor();
  await told.waitFor({ state: "hidden" });
});
