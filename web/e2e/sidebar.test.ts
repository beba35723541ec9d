/** A list of rooms that is longer than the screen. */
import type { Person } from "./support/person.ts";
import { expect, test } from "./support/world.ts";

/** The name of the room in the middle of the list, once the list stands still. */
function inTheMiddle({ page }: Person): Promise<{ name: string; x: number; y: number }> {
  return page.locator("nav .room-list").evaluate(async (list) => {
    const { left, width, top, height } = list.getBoundingClientRect();
    const [x, y] = [left + width / 2, top + height / 2];
    for (let last = -1; list.scrollTop !== last; ) {
      last = list.scrollTop;
      for (let frames = 0; frames < 3; frames++) await new Promise((resolve) => requestAnimationFrame(resolve));
    }
    const row = [...list.querySelectorAll(".room-row")].find((row) => {
      const place = row.getBoundingClientRect();
      return place.top <= y && y < place.bottom;
    });
    return { name: row?.querySelector("a")?.textContent ?? "", x, y };
  });
}

test("a room opens when it is clicked at, also right after the list was scrolled", async ({ person, account }) => {
  const [omar, diego] = [await person("omar"), await account("diego")];
  const program = await omar.account();
  await Promise.all(
    Array.from({ length: 100 }, async (_, at) => {
      const topic = `${omar.name} ${at}`;
      await diego.topic(topic);
      await program.join(topic);
    }),
  );
  await omar.page.reload();
  await omar.seesChat();
  const { x, y } = await inTheMiddle(omar);
  await omar.page.mouse.move(x, y);
  for (let round = 0; round < 10; round++) {
    const before = await inTheMiddle(omar);
    await omar.page.mouse.wheel(0, round < 5 ? 500 : -500);
    await expect.poll(async () => (await inTheMiddle(omar)).name, { interval: 1 }).not.toBe(before.name);
    const { name } = await inTheMiddle(omar);
    await omar.page.mouse.click(x, y);
    await omar.page.getByRole("heading", { level: 1, name, exact: true }).waitFor();
  }
});
