/** Files in messages: chosen, dropped and pasted, sent from the outbox, seen, saved, and shown in the viewer. */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { isAccessible } from "./support/axe.ts";
import { AWAY, isSeen, type Person } from "./support/person.ts";
import { png } from "./support/png.ts";
import { expect, test } from "./support/world.ts";

const PHONE = { viewport: { width: 390, height: 844 } };
/** Where to put pictures of what the tests see, if anywhere. */
const PICTURES = process.env.TIDINGS_PICTURES;
const ICON = await readFile(fileURLToPath(new URL("../public/icon-512.png", import.meta.url)));

const icon = (name: string) => ({ name, mimeType: "image/png", buffer: ICON });
const text = (name: string, size = 1) => ({ name, mimeType: "text/plain", buffer: Buffer.alloc(size, "x") });

/** Choose files with the button of the composer. */
async function choose(person: Person, ...files: { name: string; mimeType: string; buffer: Buffer }[]): Promise<void> {
  const [chooser] = await Promise.all([
    person.page.waitForEvent("filechooser"),
    person.button("Attach files").first().click(),
  ]);
  await chooser.setFiles(files);
}

/** Drop or paste files as a browser does it. Returns whether the page has taken the event. */
function carry(
  person: Person,
  type: "dragover" | "drop" | "paste",
  { words = "", names = ["x.png"] }: { words?: string; names?: string[] } = {},
): Promise<boolean> {
  return person.page.evaluate(
    ([type, words, names, bytes]) => {
      const data = new DataTransfer();
      for (const name of names)
        data.items.add(new File([Uint8Array.from(bytes)], name, { type: name.endsWith("png") ? "image/png" : "" }));
      if (words !== "") data.setData("text/plain", words);
      const options = { bubbles: true, cancelable: true };
      const event =
        type === "paste"
          ? new ClipboardEvent(type, { ...options, clipboardData: data })
          : new DragEvent(type, { ...options, dataTransfer: data });
      (document.activeElement ?? document.body).dispatchEvent(event);
      return event.defaultPrevented;
    },
    [type, words, names, [...ICON]] as const,
  );
}

async function look(person: Person, name: string): Promise<void> {
  for (const colorScheme of PICTURES === undefined ? [] : (["light", "dark"] as const)) {
    await person.page.emulateMedia({ colorScheme });
    await person.page.screenshot({ path: `${PICTURES}/files-${name}-${colorScheme}.png` });
  }
}

test("what is chosen, dropped and pasted is sent with its description, and others see, open and save it", async ({
  person,
}) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia", PHONE)]);
  const topic = `files of ${omar.name}`;
  await (await omar.account()).topic(topic);
  await (await lucia.account()).join(topic);
  await Promise.all([omar.enter(topic), lucia.enter(topic)]);

  await choose(omar, icon("harbour.png"), text("notes <b>.txt", 1400));
  expect(await carry(omar, "paste", { words: "a cell" }), "a copied cell is text").toBe(false);
  expect(await carry(omar, "dragover")).toBe(true);
  expect(await carry(omar, "drop", { names: ["dropped.png"] })).toBe(true);
  await omar.box.focus();
  expect(await carry(omar, "paste", { names: ["pasted.png"] })).toBe(true);
  const chosen = omar.page.getByRole("list", { name: "4 files" });
  await chosen.waitFor();
  await omar.page.getByRole("textbox", { name: "Description of harbour.png" }).fill("The harbour at dusk");
  await look(omar, "chosen");
  await isAccessible(omar, "chosen files");
  await omar.button("Remove dropped.png").click();
  await omar.box.fill("Three of them");
  await omar.button("Send").click();
  await omar.page.getByRole("list", { name: /files$/ }).waitFor({ state: "hidden" });

  for (const reader of [omar, lucia]) {
    const message = reader.message("Three of them");
    await isSeen(message.getByRole("img", { name: "The harbour at dusk" }));
    await isSeen(message.locator(".tile img").nth(1));
    await message.getByText("notes <b>.txt", { exact: true }).waitFor();
    await message.getByText("1 kB").waitFor();
    await isAccessible(reader, `files, as ${reader.name} sees them`);
    await look(reader, reader === omar ? "seen" : "phone");
  }
  const [download] = await Promise.all([
    lucia.page.waitForEvent("download"),
    lucia.page.getByRole("link", { name: "Save notes <b>.txt" }).click(),
  ]);
  expect((await readFile(await download.path())).toString()).toBe("x".repeat(1400));

  // The viewer, by the keyboard alone
  await lucia.message("Three of them").getByRole("button", { name: "Show The harbour at dusk" }).focus();
  await lucia.page.keyboard.press("Enter");
  const viewer = lucia.page.getByRole("dialog", { name: "harbour.png" });
  await isSeen(viewer.getByRole("img", { name: "The harbour at dusk" }));
  await viewer.getByText("1 of 2").waitFor();
  await isAccessible(lucia, "the viewer");
  await look(lucia, "viewer");
  await lucia.page.keyboard.press("ArrowRight");
  await isSeen(lucia.page.getByRole("dialog", { name: "pasted.png" }).getByRole("img", { name: "pasted.png" }));
  await lucia.page.keyboard.press("+");
  await lucia.button("Show the whole image").waitFor();
  await lucia.page.keyboard.press("ArrowLeft");
  await viewer.waitFor();
  await lucia.page.keyboard.press("Escape");
  await viewer.waitFor({ state: "hidden" });
  expect(await lucia.page.evaluate(() => document.activeElement?.getAttribute("aria-label"))).toBe(
    "Show The harbour at dusk",
  );
  const address = lucia.page.url();
  await lucia.page.keyboard.press("Enter");
  await viewer.waitFor();
  await lucia.page.goBack();
  await viewer.waitFor({ state: "hidden" });
  expect(lucia.page.url(), "Back leaves the viewer, not the room").toBe(address);
});

test("an image of any shape is seen as a whole, in the room and in the viewer, on a desktop and on a phone", async ({
  person,
}) => {
  const [omar, lucia] = await Promise.all([
    person("omar", { viewport: { width: 1000, height: 500 } }),
    person("lucia", PHONE),
  ]);
  const topic = `shapes of ${omar.name}`;
  await (await omar.account()).topic(topic);
  await (await lucia.account()).join(topic);
  await Promise.all([omar.enter(topic), lucia.enter(topic)]);
  for (const [width, height] of [
    [3000, 120],
    [200, 3000],
    [1600, 1200],
  ] as const) {
    const name = `${width}x${height}.png`;
    await choose(omar, { name, mimeType: "image/png", buffer: png(width, height) });
    await omar.button("Send").click();
    for (const { page } of [omar, lucia]) {
      const tile = page.getByRole("button", { name: `Show ${name}` });
      await isSeen(tile.locator("img"));
      const [room, shown] = [await page.locator("main").boundingBox(), await tile.boundingBox()];
      if (room === null || shown === null) throw new Error("it is not shown");
      expect(shown.x + shown.width, `${name} ends in the room`).toBeLessThanOrEqual(room.x + room.width);

      await tile.click();
      const viewer = page.getByRole("dialog", { name });
      const image = viewer.getByRole("img", { name });
      await isSeen(image);
      const [around, whole] = [await viewer.boundingBox(), await image.boundingBox()];
      if (around === null || whole === null) throw new Error("it is not shown");
      expect(whole.x, `${name} begins in the window`).toBeGreaterThanOrEqual(0);
      expect(whole.x + whole.width, `${name} ends in the window`).toBeLessThanOrEqual(around.width);
      expect(whole.y + whole.height, `${name} ends above the lower edge`).toBeLessThanOrEqual(around.height);
      expect(whole.width / whole.height, `${name} keeps its shape`).toBeCloseTo(width / height, 0);
      await page.keyboard.press("Escape");
      await viewer.waitFor({ state: "hidden" });
    }
  }
});

test("files wait in the outbox over a lost server and a reload, and each can be taken back", async ({
  person,
  server,
}) => {
  const omar = await person("omar");
  omar.expects(AWAY);
  const topic = `waiting ${omar.name}`;
  const account = await omar.account();
  const room_id = await account.topic(topic);
  await omar.enter(topic);
  await server.kill();
  await choose(omar, icon("first.png"), text("second.txt", 3_000_000), text("third.txt"));
  await omar.box.press("Enter");
  await omar.log.getByText("second.txt").waitFor();
  await omar.page.reload();
  const waiting = omar.log.getByRole("article").filter({ hasText: "second.txt" });
  await waiting.getByRole("progressbar", { name: "second.txt is being sent" }).waitFor();
  await isSeen(waiting.locator(".file-card img"));
  await look(omar, "waiting");
  await omar.button("Do not send third.txt").click();
  await omar.page.getByText("third.txt").waitFor({ state: "hidden" });
  await server.start();
  await isSeen(omar.log.locator(".tile:not(.waiting) img"));
  await omar.log.getByRole("progressbar").waitFor({ state: "hidden" });
  const [message] = await account.history(room_id);
  expect(message?.files?.map(({ name, size }) => [name, size])).toEqual([
    ["first.png", expect.any(Number)],
    ["second.txt", 3_000_000],
  ]);
  // A message without text is named by its files.
  await omar.page.getByRole("navigation", { name: "Rooms" }).getByText("first.png, second.txt").waitFor();
});

test("too many, too large and empty files are refused before they are sent, and where one may not write, all", async ({
  person,
  account,
}) => {
  const omar = await person("omar");
  const owner = await account("diego");
  const topic = `refused ${omar.name}`;
  const quiet = `quiet ${omar.name}`;
  await (await omar.account()).topic(topic);
  await owner.ask("create", { topic_name: quiet, posting: "moderators" });
  await (await omar.account()).join(quiet);
  await omar.enter(topic);
  await choose(omar, ...Array.from({ length: 11 }, (_, at) => text(`${at}.txt`)));
  await omar.page.getByText("A message can have up to 10 files.").waitFor();
  await choose(omar, text("nothing.txt", 0));
  await omar.page.getByText("nothing.txt is empty.").waitFor();
  expect(await omar.page.getByRole("list", { name: /files?$/ }).count()).toBe(0);

  await omar.room(quiet).click();
  await omar.page.getByText("Only moderators can write in this room.").waitFor();
  for (const type of ["drop", "paste"] as const) {
    expect(await carry(omar, type)).toBe(true);
    const notice = omar.page.getByText("Files cannot be sent here.");
    await notice.waitFor();
    await omar.page.getByRole("status").filter({ has: notice }).getByRole("button", { name: "Close" }).click();
    await notice.waitFor({ state: "hidden" });
  }
});

test("a picture that a user chooses for themselves and for a room is seen by the others at once, and after a reload", async ({
  person,
}) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia")]);
  const topic = `pictures of ${omar.name}`;
  await (await omar.account()).topic(topic);
  await (await lucia.account()).join(topic);
  await Promise.all([omar.enter(topic), lucia.enter(topic)]);
  await omar.say("Here I am");
  await lucia.message("Here I am").waitFor();
  await omar.menu("Account", "Profile and status");
  const profile = omar.page.getByRole("dialog", { name: "Your profile" });
  const input = profile.locator("input[type=file]");
  await input.setInputFiles(text("no image.txt", 20));
  await profile.getByText("This file is no image that this browser can read.").waitFor();
  await input.setInputFiles(icon("me.png"));
  await isSeen(profile.locator(".avatar img"));
  await isAccessible(omar, "the profile with a picture");
  await look(omar, "profile");
  await profile.getByRole("button", { name: "Close" }).click();
  await isSeen(lucia.message("Here I am").locator(".avatar img"));

  await omar.menu("More about this room", "Choose a picture");
  await omar.page.getByRole("dialog").locator("input[type=file]").setInputFiles(icon("room.png"));
  await lucia.page.getByText(`${omar.name} changed the picture of this room.`).waitFor();
  const sign = lucia.page.locator(".room > header .avatar img");
  await isSeen(sign);
  await look(lucia, "pictures");
  await lucia.page.reload();
  await isSeen(sign);
  await isSeen(lucia.message("Here I am").locator(".avatar img"));

  await omar.page.getByRole("dialog").getByRole("button", { name: "Remove picture" }).click();
  await lucia.page.getByText(`${omar.name} removed the picture of this room.`).waitFor();
  await sign.waitFor({ state: "hidden" });
});
