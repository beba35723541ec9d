/** A message that is written while it is read. */
import { expect, test } from "./support/world.ts";

const PIECES = 200;

test("a streaming message grows on the screen, Stop reaches its author, and the end shows all of it", async ({
  person,
  account,
}) => {
  const [ana, bot] = await Promise.all([person("ana"), account("bot")]);
  const topic = `answers of ${bot.name}`;
  const room_id = await bot.topic(topic);
  await (await ana.account()).join(topic);
  await ana.enter(topic);
  for (let count = 1; count <= 30; count++) await bot.say(room_id, `before ${count}`);
  await ana.message("before 30").waitFor();

  const { id } = await bot.ask("message", { room_id, content: "", stream: true });
  let offset = 0;
  let whole = "";
  const append = async (text: string) => {
    const answer = await bot.ask("append", { message_id: id, offset, text });
    offset = answer.offset;
    whole += text;
    return answer.stop;
  };
  await append("The first 🎉 line.\n\n```\n");
  const article = ana.message("The first 🎉 line.");
  await article.locator("pre").waitFor();
  await article.getByText("Writing…").waitFor();
  expect(await article.getAttribute("aria-live")).toBe("off");
  await ana.page.evaluate(watchEnd);
  for (let count = 1; count <= PIECES / 2; count++) expect(await append(`piece ${count} 👍🏽\n`)).toBe(false);
  await article.getByText(`piece ${PIECES / 2} `).waitFor();

  await article.getByRole("button", { name: /^Stop/ }).click();
  await article.getByText("Stopping…").waitFor();
  let stopped = false;
  for (let count = PIECES / 2 + 1; count <= PIECES; count++)
    stopped = (await append(`piece ${count} 👍🏽\n`)) || stopped;
  expect(stopped).toBe(true);
  await article.getByText(`piece ${PIECES} `).waitFor();
  expect(await ana.page.evaluate(farthestFromEnd)).toBeLessThan(40);
  const announced = ana.page.locator("[aria-live=polite] p").filter({ hasText: `piece ${PIECES} ` });
  expect(await announced.count()).toBe(0);

  await append("```\n\nThe last line.");
  await bot.ask("finish", { message_id: id, offset });
  await article.getByRole("button", { name: /^Stop/ }).waitFor({ state: "detached" });
  await article.getByText("The last line.").waitFor();
  const lines = whole.split("\n").filter((line) => line.startsWith("piece"));
  expect((await article.locator("pre").textContent())?.trim().split("\n")).toEqual(lines);
  await expect.poll(() => announced.count()).toBe(1);
  const [last] = (await bot.history(room_id)).slice(-1);
  expect(last?.content).toBe(whole);
});

interface Watching {
  farthest: number;
}

/** Runs in the page: in each frame, note how far the timeline is from its end. */
function watchEnd(): void {
  const log = document.querySelector('[role="log"]') as HTMLElement;
  const watching = window as unknown as Watching;
  watching.farthest = 0;
  const look = () => {
    watching.farthest = Math.max(watching.farthest, log.scrollHeight - log.clientHeight - log.scrollTop);
    requestAnimationFrame(() => setTimeout(look));
  };
  look();
}

/** Runs in the page. */
function farthestFromEnd(): number {
  return (window as unknown as Watching).farthest;
}
