/** Lists that are longer than the screen: what is clicked at takes the click, also right after a turn of the wheel. */
import type { Locator } from "playwright-core";
import { expect, test } from "./support/world.ts";

interface Place {
  /** The text of the row that it is in */
  readonly row: string;
  readonly x: number;
  readonly y: number;
}

/** What of this kind is next to the middle of a list, once the list stands still. */
function inTheMiddle(list: Locator, rows: string, kind: string): Promise<Place> {
  return list.evaluate(
    async (list, [rows, kind]) => {
      for (let last = -1; list.scrollTop !== last; ) {
        last = list.scrollTop;
        for (let frames = 0; frames < 3; frames++) await new Promise((resolve) => requestAnimationFrame(resolve));
      }
      const { top, height } = list.getBoundingClientRect();
      const places = [...list.querySelectorAll<HTMLElement>(kind)].map((one) => {
        const place = one.getBoundingClientRect();
        const row = one.closest(rows)?.textContent ?? "";
        return { row, x: place.left + place.width / 2, y: place.top + place.height / 2 };
      });
      const far = ({ y }: { y: number }) => Math.abs(y - top - height / 2);
      const [first] = places.sort((one, other) => far(one) - far(other));
      if (first === undefined) throw new Error(`there is no ${kind}`);
      return first;
    },
    [rows, kind] as const,
  );
}

/** Turn the wheel up or down over a list, and click at once at what is then in its middle. */
async function scrollAndClick(list: Locator, rows: string, kind: string, by: number): Promise<Place> {
  const { mouse } = list.page();
  const before = await inTheMiddle(list, rows, kind);
  await mouse.move(before.x, before.y);
  await mouse.wheel(0, by);
  await expect.poll(async () => (await inTheMiddle(list, rows, kind)).row, { interval: 1 }).not.toBe(before.row);
  const place = await inTheMiddle(list, rows, kind);
  await mouse.click(place.x, place.y);
  return place;
}

test("a click opens a room even right after the list was scrolled", async ({ person, account }) => {
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
  for (let round = 0; round < 10; round++) {
    const list = omar.page.locator("nav .room-list");
    const { row } = await scrollAndClick(list, ".name", ".name", round < 5 ? 500 : -500);
    await omar.page.getByRole("heading", { level: 1, name: row, exact: true }).waitFor();
  }
});

test("a click on a reaction works even right after the messages were scrolled", async ({ person, account }) => {
  const [omar, diego] = [await person("omar"), await account("diego")];
  const topic = `praise of ${omar.name}`;
  const room_id = await diego.topic(topic);
  for (let number = 0; number < 80; number++) {
    const { id } = await diego.say(room_id, `praise ${number};`);
    await diego.ask("react", { message_id: id, emoji: "👍" });
  }
  await (await omar.account()).join(topic);
  await omar.enter(topic);
  await omar.message("praise 79;").waitFor();
  for (let round = 0; round < 10; round++) {
    const { row } = await scrollAndClick(omar.log, "article", ".reaction:not(.add)", -400);
    const [text = ""] = /praise \d+;/.exec(row) ?? [];
    await omar.message(text).getByRole("button", { name: "👍 2", pressed: true }).waitFor();
  }
});
