/** `make screenshots`: the pictures in docs/, of a conversation that these people have just now. */
import { fileURLToPath } from "node:url";
import type { BrowserContextOptions } from "playwright-core";
import { expect } from "vitest";
import { Account, PASSWORD } from "./support/account.ts";
import type { Person } from "./support/person.ts";
import { test } from "./support/world.ts";

const PICTURES = fileURLToPath(new URL("../../docs/", import.meta.url));
const DESKTOP = { viewport: { width: 1280, height: 800 }, deviceScaleFactor: 1.5 };
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };

async function picture(person: Person, name: string): Promise<void> {
  await person.page.evaluate(() => document.fonts.ready);
  await person.page.screenshot({ path: `${PICTURES}${name}.png` });
}

test("the pictures of the documents", async ({ server, browser }) => {
  const { Person } = await import("./support/person.ts");
  const arrive = (name: string, options: BrowserContextOptions) => Person.arrive(browser, server.url, name, options);
  const maria = await arrive("maria", { ...DESKTOP, colorScheme: "light" });
  await picture(maria, "web-sign-in");
  await maria.signUp();
  const [omar, diego, satoshi, yuki] = await Promise.all(
    ["omar", "diego", "satoshi", "yuki"].map((name) => Account.create(server.url, name)),
  );
  if (omar === undefined || diego === undefined || satoshi === undefined || yuki === undefined)
    throw new Error("alone");
  const me = await maria.account();

  const release = await omar.topic("release");
  for (const account of [diego, satoshi, yuki, me]) await account.ask("subscribe", { topic_name: "release" });
  const noticias = await diego.topic("noticias");
  await me.ask("subscribe", { topic_name: "noticias" });
  const board = await satoshi.topic("board", true);
  await satoshi.ask("invite", { room_id: board, username: "maria" });
  const group = await yuki.ask("create_conversation", { usernames: ["maria", "omar"], title: "Friday dinner" });

  await diego.say(noticias, "The first edition is out. **Buenos días** to all who were asleep when it was sent.");
  await satoshi.say(board, "Minutes of Tuesday are in the folder.");
  await yuki.say(group.room_id, "Half past seven, the place by the river?");
  await omar.say(group.room_id, "I will be there 🍜");

  await omar.say(release, "Good morning. The release is cut from `main`; the checks are green since 6:40.");
  await omar.say(
    release,
    "What is left:\n\n- the notes, **diego**\n- the picture for the page, ~~yuki~~ done\n- a last look at the migration",
  );
  const asked = await diego.say(
    release,
    "The notes are nearly there. @maria, is this right about what happens when the server is away?",
  );
  const answer = await me.ask("message", {
    room_id: release,
    reply_to: asked.id,
    content:
      'Yes. What you write waits on your device and goes out once, in order, when it is back:\n\n```js\nconst sent = await ask("message", { room_id, content, client_id });\nconsole.log(sent.seq);\n```',
  });
  await omar.ask("message", { room_id: release, thread: asked.id, content: "It says so in docs/client.md, too." });
  await diego.ask("react", { message_id: answer.id, emoji: "❤️" });
  await yuki.ask("react", { message_id: answer.id, emoji: "❤️" });
  await omar.ask("react", { message_id: answer.id, emoji: "👍" });
  const typo = await diego.say(release, "Then the notes say so. Sending them in a minut.");
  await diego.ask("edit", { message_id: typo.id, content: "Then the notes say so. Sending them in a minute." });
  await satoshi.say(
    release,
    "I killed the server under two clients while they were writing. Both ended with the same log, nothing twice. 🎉",
  );

  const direct = await diego.ask("create_conversation", { usernames: ["maria"] });
  await diego.say(direct.room_id, "Are you coming on Friday?");
  await me.say(direct.room_id, "Of course.");
  await diego.say(direct.room_id, "@maria bring the charger, please");

  await maria.enter("release");
  await maria.message("nothing twice").waitFor();
  await yuki.ask("typing", { room_id: release });
  await maria.page.getByRole("region", { name: "Room" }).getByText("yuki is typing").waitFor();
  await picture(maria, "web-light");
  await maria.page.emulateMedia({ colorScheme: "dark" });
  await yuki.ask("typing", { room_id: release });
  await picture(maria, "web-dark");
  await maria.close();

  const phone = await arrive("maria", { ...PHONE, colorScheme: "light" });
  await phone.signIn(PASSWORD);
  await phone.enter("release");
  await phone.message("nothing twice").waitFor();
  await picture(phone, "web-phone");
  expect(phone.problems).toEqual([]);
  await phone.close();
  for (const account of [omar, diego, satoshi, yuki, me]) await account.leave();
});
