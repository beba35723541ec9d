/** The keys that do something wherever one is, and the list of them. */
import { isFocused } from "./support/person.ts";
import { expect, test } from "./support/world.ts";

test("a question mark lists the keyboard shortcuts, except while writing; Escape closes the list and restores the focus", async ({
  person,
}) => {
  const omar = await person("omar");
  const topic = `keys of ${omar.name}`;
  await (await omar.account()).topic(topic);
  await omar.enter(topic);
  const { page } = omar;
  const list = page.getByRole("dialog", { name: "Keyboard shortcuts" });
  const search = page.getByRole("searchbox", { name: "Search", exact: true });
  const closed = async () => {
    await page.keyboard.press("Escape");
    await list.waitFor({ state: "hidden" });
  };

  for (const box of [omar.box, page.getByRole("searchbox", { name: "Filter rooms" })]) {
    await box.focus();
    await page.keyboard.press("?");
    expect(await box.inputValue()).toBe("?");
    expect(await list.count()).toBe(0);
    await box.clear();
  }

  const opener = omar.button("Find topics");
  await opener.focus();
  await page.keyboard.press("?");
  await list.waitFor();
  const listed = await list
    .getByRole("term")
    .evaluateAll((terms) =>
      terms.map((term) => [
        [...term.children].map((key) => key.textContent).join(" or "),
        term.nextElementSibling?.textContent,
      ]),
    );
  const does = Object.fromEntries(listed) as Record<string, string>;
  expect(does).toMatchObject({ "?": "Show this list", "/ or Ctrl Shift F": "Search messages", C: "Write a message" });
  await closed();
  await expect.poll(() => opener.evaluate(isFocused)).toBe(true);

  await page.keyboard.press("c");
  await expect.poll(() => omar.box.evaluate(isFocused)).toBe(true);
  expect(await omar.box.inputValue()).toBe("");
  await opener.focus();
  await page.keyboard.press("/");
  await expect.poll(() => search.evaluate(isFocused)).toBe(true);
  await page.keyboard.press("Escape");
  await search.waitFor({ state: "hidden" });
  await expect.poll(() => opener.evaluate(isFocused)).toBe(true);

  await omar.menu("Account", "Keyboard shortcuts");
  await list.getByRole("checkbox", { name: /single-key/ }).uncheck();
  await closed();
  await expect.poll(() => omar.button("Account").evaluate(isFocused)).toBe(true);
  await page.keyboard.press("?");
  await page.keyboard.press("Control+Shift+f");
  await expect.poll(() => search.evaluate(isFocused)).toBe(true);
  expect(await list.count()).toBe(0);
});
