/** Where one writes: what it says, what covers it, and what it refuses. */
import { expect, test } from "./support/world.ts";

test("completions do not cover the quoted message, and the box names its room", async ({ person, account }) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const topic = `covers ${omar.name}`;
  const room_id = await (await omar.account()).topic(topic);
  await diego.join(topic);
  await diego.say(room_id, "what is asked");
  await omar.enter(topic);
  expect(await omar.box.getAttribute("placeholder")).toBe(`Message #${topic}`);
  await omar.act("what is asked", "Reply");
  const target = omar.page.getByText("Replying to");
  await target.waitFor();
  await omar.box.pressSequentially("@");
  const list = omar.page.getByRole("listbox", { name: "Completions" });
  await list.getByRole("option").first().waitFor();
  const place = await target.boundingBox();
  await expect
    .poll(async () => {
      const box = await list.boundingBox();
      return (box?.y ?? Number.NaN) + (box?.height ?? Number.NaN);
    })
    .toBeLessThanOrEqual(place?.y ?? 0);
});

test("Arabic and Hebrew are shown from right to left, next to English from left to right", async ({ person }) => {
  const omar = await person("omar");
  const topic = `scripts ${omar.name}`;
  await (await omar.account()).topic(topic);
  await omar.enter(topic);
  const direction = (text: string) =>
    omar
      .message(text)
      .locator(".content")
      .evaluate((content) => getComputedStyle(content).direction);
  await omar.say("مرحبا Tidings!", "Hello, עולם.");
  await omar.message("Hello").waitFor();
  expect(await direction("مرحبا")).toBe("rtl");
  expect(await direction("Hello")).toBe("ltr");
  // The exclamation mark ends the sentence at its left.
  const [mark, word] = await omar
    .message("مرحبا")
    .locator("p")
    .evaluate((paragraph) => {
      const text = paragraph.firstChild as Text;
      const leftOf = (at: number) => {
        const range = document.createRange();
        range.setStart(text, at);
        range.setEnd(text, at + 1);
        return range.getBoundingClientRect().left;
      };
      return [leftOf(text.length - 1), leftOf(0)];
    });
  expect(mark).toBeLessThan(word ?? 0);
  await omar.box.fill("مرحبا");
  expect(await omar.box.evaluate((box) => getComputedStyle(box).direction)).toBe("rtl");
});

test("what is written can be formatted by keys and by buttons, and tables and code are shown as such", async ({
  person,
  account,
}) => {
  const omar = await person("omar");
  const diego = await account("diego");
  await diego.ask("create_conversation", { usernames: [omar.name] });
  await omar.enter(diego.name);
  await omar.box.fill("a bold word");
  const select = () => omar.box.evaluate((box: HTMLTextAreaElement) => box.setSelectionRange(2, 6));
  await select();
  await omar.page.keyboard.press("Control+b");
  await expect.poll(() => omar.box.inputValue()).toBe("a **bold** word");
  await omar.page.keyboard.press("Control+b");
  await expect.poll(() => omar.box.inputValue()).toBe("a bold word");
  await omar.page.keyboard.press("Control+z");
  await expect.poll(() => omar.box.inputValue()).toBe("a **bold** word");
  await omar.box.fill("");
  await omar.box.pressSequentially("done :tada:");
  await expect.poll(() => omar.box.inputValue()).toBe("done 🎉");
  await omar.page.keyboard.press("Control+z");
  await expect.poll(() => omar.box.inputValue()).toContain(":tada:");
  await omar.box.fill("one\ntwo");
  await omar.box.press("Control+a");
  await omar.button("Formatting").click();
  const row = omar.page.getByRole("toolbar", { name: "Formatting" });
  await row.getByRole("button", { name: "Quotation" }).click();
  await expect.poll(() => omar.box.inputValue()).toBe("> one\n> two");
  await row.getByRole("button", { name: "Quotation" }).click();
  await expect.poll(() => omar.box.inputValue()).toBe("one\ntwo");
  await omar.box.fill("| what | how many |\n|:--|--:|\n| chairs | **6** |");
  await omar.box.press("Enter");
  const table = omar.message("chairs").getByRole("table");
  await table.getByRole("columnheader", { name: "how many" }).waitFor();
  await table.getByRole("row").filter({ hasText: "chairs" }).getByRole("cell", { name: "6" }).waitFor();
  await omar.box.fill("```python\ndef sit(chairs):\n    return 'down'\n```");
  await omar.box.press("Enter");
  const code = omar.message("def sit");
  await code.locator(".code-keyword").filter({ hasText: "return" }).waitFor();
  expect(await code.locator("pre").innerText()).toBe("def sit(chairs):\n    return 'down'");
});

test("Enter after a whole name sends, and after a part of one completes it", async ({ person, account }) => {
  const omar = await person("omar");
  const diego = await account("diego");
  const topic = `names ${omar.name}`;
  await (await omar.account()).topic(topic);
  await diego.join(topic);
  await omar.enter(topic);
  const choices = omar.page.getByRole("listbox", { name: "Completions" });
  await omar.box.pressSequentially(`@${diego.name.slice(0, -1)}`);
  await choices.getByRole("option", { name: diego.name }).waitFor();
  await omar.page.keyboard.press("Enter");
  expect(await omar.box.inputValue()).toBe(`@${diego.name} `);
  await omar.box.fill("");
  await omar.box.pressSequentially(`hello @${diego.name}`);
  await choices.getByRole("option", { name: diego.name }).waitFor();
  await omar.page.keyboard.press("Enter");
  await omar.message(`hello @${diego.name}`).waitFor();
  await choices.waitFor({ state: "hidden" });
});
