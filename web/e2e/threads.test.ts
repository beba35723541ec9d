/** Threads: replies beside a room. */
import { AWAY, isFocused } from "./support/person.ts";
import { expect, test } from "./support/world.ts";

test("a thread is written beside its room, quiet in it, and unread for who follows it until they look", async ({
  person,
}) => {
  const omar = await person("omar");
  const lucia = await person("lucia");
  const topic = `threads of ${omar.name}`;
  const room_id = await (await omar.account()).topic(topic);
  await (await lucia.account()).join(topic);
  await omar.enter(topic);
  await lucia.enter(topic);
  await omar.say("Who brings the chairs?");
  const question = lucia.message("Who brings the chairs?");
  await question.waitFor();
  await question.focus();
  await lucia.page.keyboard.press("t");
  const panel = lucia.page.getByRole("complementary", { name: "Thread" });
  const box = panel.getByRole("textbox", { name: "Reply in thread" });
  await box.fill("I have six");
  await box.press("Enter");
  await panel.getByText("I have six").waitFor();
  await panel.getByText("1 reply").waitFor();
  await panel.getByRole("button", { name: "Following" }).waitFor();

  expect((await (await omar.account()).ask("get_rooms", {})).rooms[0]?.unread).toBe(0);

  // The display name is shown wherever a name stands.
  await (await lucia.account()).ask("set_profile", { display_name: "Lucía Zubiri" });
  const asked = (await (await lucia.account()).history(room_id))[0];
  await (await lucia.account()).ask("message", { room_id, content: "and food", reply_to: asked?.id ?? "" });
  const answer = await (await omar.account()).history(room_id);
  await (await omar.account()).ask("message", { room_id, content: "of course", reply_to: answer.at(-1)?.id ?? "" });
  await omar.message("of course").getByRole("button", { name: "In reply to Lucía Zubiri" }).waitFor();

  // Who began it is told, beside the room, and reads it by opening it.
  const link = omar.message("Who brings the chairs?").getByRole("button", { name: "1 reply 1 new" });
  await link.waitFor();
  const all = omar.page.getByRole("button", { name: "Threads 1 unread." });
  await all.waitFor();
  expect(await omar.log.getByText("I have six").count()).toBe(0);
  await all.click();
  const list = omar.page.getByRole("complementary", { name: "Threads" });
  await list.getByRole("button", { name: /Who brings the chairs\?.*1 new/ }).click();
  const theirs = omar.page.getByRole("complementary", { name: "Thread", exact: true });
  await theirs.getByText("I have six").waitFor();
  await omar.page.getByRole("button", { name: "Threads", exact: true }).first().waitFor();
  await expect.poll(async () => (await (await omar.account()).ask("get_threads", {})).threads[0]?.unread).toBe(0);

  // A reply arrives while it is open, a reaction reaches it, and an edit too.
  const account = await lucia.account();
  const began = (await account.history(room_id))[0];
  const second = await account.ask("message", { room_id, content: "and a table", thread: began?.id ?? "" });
  const row = theirs.getByRole("article").filter({ hasText: "and a table" });
  await row.waitFor();
  await account.ask("edit", { message_id: second.id, content: "and two tables" });
  await theirs.getByText("and two tables").waitFor();
  await theirs.getByRole("article").filter({ hasText: "and two tables" }).focus();
  await omar.page.keyboard.press("ArrowUp");
  await expect
    .poll(() => theirs.getByRole("article").filter({ hasText: "I have six" }).evaluate(isFocused))
    .toBe(true);
  await omar.page.keyboard.press("Escape");
});

test("a link to a reply opens its thread, also for who has the page open anew, and a reply waits offline", async ({
  person,
}) => {
  const omar = await person("omar");
  const program = await omar.account();
  const topic = `links of ${omar.name}`;
  const room_id = await program.topic(topic);
  const began = await program.say(room_id, "begin");
  for (let at = 1; at <= 120; at++)
    await program.ask("message", { room_id, content: `reply ${at}`, thread: began.id });
  const last = (await program.history(room_id)).at(-1);
  await omar.page.goto(`${omar.page.url().split("#")[0]}#/room/${room_id}/${last?.seq}/${began.id}`);
  await omar.page.reload();
  const panel = omar.page.getByRole("complementary", { name: "Thread" });
  await panel.getByRole("article").filter({ hasText: "reply 120" }).waitFor();
  await panel.getByText("120 replies").waitFor();
  expect(await panel.getByText("reply 5", { exact: true }).count()).toBe(0);
  await panel.getByRole("button", { name: "Show earlier replies" }).click();
  await panel.getByText("reply 5", { exact: true }).waitFor();
  omar.expects(AWAY);
  await omar.page.context().setOffline(true);
  await panel.getByRole("textbox", { name: "Reply in thread" }).fill("from the train");
  await omar.page.keyboard.press("Enter");
  await panel.getByLabel("Waiting to be sent").waitFor();
  expect(await omar.log.getByText("from the train").count()).toBe(0);
  await omar.page.context().setOffline(false);
  await expect
    .poll(async () => (await program.history(room_id)).at(-1)?.content, { timeout: 30_000 })
    .toBe("from the train");
  await panel.getByText("121 replies").waitFor();
});
