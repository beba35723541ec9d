/** A message that is written while it is read. */
import { setTimeout as pause } from "node:timers/promises";
import { connect, type MessageStream } from "@tidings/client";
import { startTidings } from "../../clients/javascript/src/testing.ts";
import { Network } from "../../clients/javascript/tests/support/network.ts";
import { Account } from "./support/account.ts";
import { AWAY, Person } from "./support/person.ts";
import { PYTHON } from "./support/server.ts";
import { expect, test } from "./support/world.ts";

const PIECES = 200;
/** Pieces that are written before somebody presses Stop, and ms from one to the next. */
const STORM = 2000;
const PACE = 10;

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

test("pages and an author whose network and server fail while they stream end with the text of the log", async ({
  browser,
  server,
  account,
  people,
  onTestFinished,
}) => {
  const [bot, onPages, onAuthor] = await Promise.all([
    account("bot"),
    Network.before(server.url),
    Network.before(server.url),
  ]);
  for (const network of [onPages, onAuthor]) onTestFinished(() => network.close());
  const topic = `storm of ${bot.name}`;
  const room_id = await bot.topic(topic);
  const arrive = async (name: string): Promise<Person> => {
    const person = await Person.arrive(browser, onPages.url, `${name}-of-${bot.name}`);
    people.push(person);
    person.expects(AWAY);
    person.expects(/status of 400/); // of a session before the server was killed
    await person.context.addInitScript(checkOrder);
    await person.signUp();
    await person.page.evaluate(async () => void (await navigator.serviceWorker.ready));
    return person;
  };
  const enter = async (person: Person) => {
    const { token } = await person.account();
    const program = new Account(server.url, person.name, token);
    await program.join(topic);
    await program.leave();
    await person.enter(topic);
  };
  const [reloading, leaving, late] = await Promise.all([arrive("reloading"), arrive("leaving"), arrive("late")]);
  await Promise.all([reloading, leaving].map(enter));
  const client = await connect(onAuthor.url, { token: bot.token, device: "writer" });
  onTestFinished(() => client.close());
  const author = new Author(await client.room({ room_id }).stream(), manuscript(3 * STORM));
  const writing = author.write();

  const reloads = (async () => {
    while (author.pieces < STORM) {
      await reloading.page.reload();
      await caughtUp(reloading, author);
    }
  })();
  const away = (async () => {
    await caughtUp(leaving, author);
    await leaving.context.setOffline(true);
    await author.reached(STORM / 2);
    await leaving.context.setOffline(false);
    await caughtUp(leaving, author);
  })();
  const failures = (async () => {
    for (let at = 1; at < 10; at++) {
      await author.reached((at * STORM) / 10);
      if (at === 3 || at === 7) {
        await server.kill();
        await server.start();
      } else if (at === 5) {
        await enter(late);
        await caughtUp(late, author);
      } else (at % 2 === 0 ? onPages : onAuthor).cut();
    }
  })();
  await Promise.race([Promise.all([reloads, away, failures, author.reached(STORM)]), writing]);
  await caughtUp(late, author);
  expect(author.stream.stopped).toBe(false);
  await late.button(/^Stop/).click();
  await Promise.race([writing, author.reached(author.pieces + STORM / 2)]);
  expect(author.stream.stopped).toBe(true);
  await writing;
  const { content } = await author.stream.finish();

  expect(content).toBe(author.text);
  expect((await bot.history(room_id)).map((message) => [message.state, message.content])).toEqual([
    ["complete", content],
  ]);
  const fresh = await arrive("fresh");
  await enter(fresh);
  const [expected, ...shown] = await Promise.all(
    [fresh, reloading, leaving, late].map((person) => rendered(person, content)),
  );
  for (const elements of shown) expect(elements).toBe(expected);
});

test("a message whose author goes silent, also over a restart of the server, is shown as interrupted", async ({
  browser,
  people,
}) => {
  const tidings = await startTidings({ command: [PYTHON, "-m", "tidings.testing"] });
  const author = await tidings.client("bot");
  await author.actions.create({ topic_name: "noticias" });
  const ana = await Person.arrive(browser, tidings.url, "ana");
  people.push(ana);
  ana.expects(AWAY);
  ana.expects(/status of 400/); // of a session before the restart
  await ana.signUp();
  await (await ana.account()).join("noticias");
  await ana.enter("noticias");
  const stream = await author.room({ topic_name: "noticias" }).stream();
  await stream.write("Half a sen");
  await stream.flush();
  await author.close();
  const article = ana.message("Half a sen");
  await article.getByText("Writing…").waitFor();
  await tidings.restart();
  await ana.seesChat();
  await article.getByText("Writing…").waitFor();
  const mark = article.getByText("interrupted", { exact: true });
  await expect
    .poll(async () => {
      await tidings.advance(120); // the server looks twice
      return mark.count();
    })
    .toBe(1);
  expect(await ana.button(/^Stop/).count()).toBe(0);
  await ana.page.reload();
  await mark.waitFor();
  await ana.close();
  await tidings.stop();
});

test("a Stop that the server refuses says why, and can be pressed again", async ({ person, account }) => {
  const [ana, bot] = await Promise.all([person("ana"), account("bot")]);
  const topic = `refusals of ${bot.name}`;
  const room_id = await bot.topic(topic);
  await (await ana.account()).join(topic);
  await ana.enter(topic);
  const { id } = await bot.ask("message", { room_id, content: "Once upon", stream: true });
  const stop = ana.message("Once upon").getByRole("button", { name: /^Stop/ });
  await stop.waitFor();
  await bot.ask("mute", { room_id, username: ana.name });
  await stop.click();
  await ana.page.getByText(/^Muted until/).waitFor();
  await ana.message("Once upon").getByText("Writing…").waitFor();
  expect((await bot.ask("append", { message_id: id, offset: 9, text: " a" })).stop).toBe(false);
  await bot.ask("mute", { room_id, username: ana.name, duration: 0 });
  await stop.click();
  await ana.message("Once upon").getByText("Stopping…").waitFor();
  await expect.poll(async () => (await bot.ask("append", { message_id: id, offset: 9, text: " a" })).stop).toBe(true);
});

/** Writes a text in pieces that begin and end anywhere, until somebody stops it. */
class Author {
  readonly stream: MessageStream;
  pieces = 0;
  private readonly points: readonly string[];
  private written = 0;
  private readonly waiting = new Set<() => void>();

  constructor(stream: MessageStream, text: string) {
    this.stream = stream;
    this.points = [...text];
  }

  get text(): string {
    return this.points.slice(0, this.written).join("");
  }

  async write(): Promise<void> {
    while (!this.stream.stopped) {
      const begin = this.written;
      this.written += 5 + (this.pieces % 7);
      if (this.written > this.points.length) throw new Error("nobody has stopped it");
      await this.stream.write(this.points.slice(begin, this.written).join(""));
      this.pieces++;
      for (const wake of this.waiting) wake();
      this.waiting.clear();
      await pause(PACE);
    }
  }

  /** Resolves when so many pieces are written. */
  async reached(pieces: number): Promise<void> {
    while (this.pieces < pieces) await new Promise<void>((resolve) => this.waiting.add(resolve));
  }
}

/** Paragraphs, lists and code of numbered words. */
function manuscript(words: number): string {
  const blocks: string[] = [];
  for (let first = 1; first <= words; first += 6) {
    const [a, b, c, d, e, f] = Array.from({ length: 6 }, (_, at) => `«${String(first + at).padStart(4, "0")}»`);
    blocks.push(
      `${a} 🎉 *${b}*, **${c}**. 👩‍💻 \`${d}\` ñ\n${e} ~~${f}~~`,
      `- ${a} 👍🏽\n- ${b} 🇪🇸\n  ${c}\n- ${d}\n\n1. ${e}\n2. ${f}`,
      `\`\`\`js\n${a} = "🐙";\n\n${b} ${c}\n  ${d}\n${e} ${f}\n\`\`\``,
    );
  }
  return blocks.filter((_, at) => at % 3 === Math.floor(at / 3) % 3).join("\n\n");
}

/** The message that streams, in the page. */
function story(person: Person) {
  return person.message("«0001»");
}

/** Resolves when a page shows what is written by now, while the author goes on. */
async function caughtUp(person: Person, author: Author): Promise<void> {
  const last = author.text.match(/«\d+»/g)?.at(-1) ?? "";
  await story(person).filter({ hasText: last }).waitFor();
}

/** The elements of the finished message. */
async function rendered(person: Person, content: string): Promise<string> {
  const article = story(person);
  await article.getByText("Writing…").waitFor({ state: "detached" });
  await article.getByText("Stopping…").waitFor({ state: "detached" });
  const more = article.getByRole("button", { name: "Show more" });
  if ((await more.count()) > 0) await more.click();
  await article.filter({ hasText: content.match(/«\d+»/g)?.at(-1) ?? "" }).waitFor();
  return article.locator(".content").innerHTML();
}

/** Runs in the page, before its own scripts: in each frame, the numbered words must be 1, 2, 3 … */
function checkOrder(): void {
  let last = "";
  const look = () => {
    for (const content of document.querySelectorAll("article .content")) {
      const text = content.textContent ?? "";
      if (text === last || !text.includes("«")) continue;
      last = text;
      const words = [...text.matchAll(/«(.*?)»/g)].map(([, number]) => Number(number));
      const wrong = words.findIndex((number, at) => number !== at + 1);
      if (wrong >= 0) reportError(new Error(`after word ${wrong} comes «${words[wrong]}»`));
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}

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
