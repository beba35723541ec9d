/** In order, each message once: over a real store, with a server that loses answers, and tabs that are reloaded. */
import "fake-indexeddb/auto";
import fc from "fast-check";
import { afterEach, expect, test } from "vitest";
import type { ErrorCode, Message, SendMessage } from "../src/contract.gen.ts";
import { Database } from "../src/database.ts";
import { Outbox, type Unsent } from "../src/outbox.ts";
import { noAnswer, Refused } from "../src/session.ts";
import { message } from "./make.ts";

/** What becomes of a request. `late`: it is lost, and takes effect after others that are sent later. */
type Fate = "ok" | "lost" | "answer lost" | "late" | "cut off" | "limited" | "unavailable" | "expired" | "refused";

function refusal(code: ErrorCode, retryable: boolean, details: Record<string, unknown> = {}): Refused {
  return new Refused({ code, message: `refused: ${code}`, details, retryable });
}

/** The server, the browser's lock and clock, and the tabs of a user. */
class World {
  readonly name = `user${Math.random()}`;
  readonly log: Message[] = [];
  readonly tabs: Tab[] = [];
  fates: Fate[] = [];
  /** No events come. */
  silent = false;
  /** What was asked before the time that the server had named. */
  early = 0;
  asked: string[] = [];
  now = 0;
  limitedUntil = 0;
  private readonly byId = new Map<string, Message>();
  private late: SendMessage[] = [];
  private readonly timers: { at: number; work: () => void }[] = [];
  private lock: Promise<unknown> = Promise.resolve();
  private readonly locks: boolean;
  private waiting: (() => void)[] = [];

  constructor(locks = true) {
    this.locks = locks;
  }

  async open(): Promise<Tab> {
    const tab = new Tab(this, await Database.open(this.name));
    this.tabs.push(tab);
    await tab.outbox.load();
    for (const one of this.log) this.tell(tab, one); // what it missed
    tab.outbox.wake();
    return tab;
  }

  /** As when the page is left in the middle, and opened again. */
  async reload(tab: Tab): Promise<Tab> {
    await this.close(tab);
    return this.open();
  }

  async close(tab: Tab): Promise<void> {
    tab.outbox.stop();
    tab.online = false;
    this.tabs.splice(this.tabs.indexOf(tab), 1);
    await tab.idle;
    tab.database.close();
  }

  async send(tab: Tab, request: SendMessage): Promise<Message> {
    if (this.now < this.limitedUntil) this.early++;
    await turns(1);
    this.asked.push(request.content);
    const fate = tab.online ? (this.fates.shift() ?? "ok") : "lost";
    switch (fate) {
      case "lost":
        throw noAnswer("lost");
      case "answer lost":
        this.append(request);
        throw noAnswer("lost");
      case "late":
        this.late.push(request);
        throw noAnswer("lost");
      case "cut off":
        this.append(request);
        tab.online = false;
        setImmediate(() => {
          tab.online = true;
          tab.outbox.wake();
        });
        throw noAnswer("lost");
      case "limited":
        this.limitedUntil = this.now + 3000;
        throw refusal("rate_limited", true, { retry_after: 3 });
      case "unavailable":
        throw refusal("unavailable", true);
      case "expired":
        throw refusal("token_expired", false);
      case "refused":
        throw refusal("forbidden", false);
      case "ok": {
        const sent = this.append(request);
        for (const one of this.late.splice(0)) this.append(one);
        return sent;
      }
    }
  }

  /** Durable, once per `client_id`; told to all tabs. */
  private append(request: SendMessage): Message {
    const client_id = request.client_id as string;
    const known = this.byId.get(client_id);
    if (known !== undefined) return known;
    const room_id = request.room_id as string;
    const sent = message(this.log.length + 1, { room_id, content: request.content, client_id });
    this.byId.set(client_id, sent);
    this.log.push(sent);
    for (const tab of this.tabs) this.tell(tab, sent);
    return sent;
  }

  private tell(tab: Tab, { client_id }: Message): void {
    setImmediate(() => {
      if (this.silent || client_id === null || !this.tabs.includes(tab)) return;
      tab.arrived.add(client_id);
      void tab.outbox.arrived(client_id);
    });
  }

  async alone<T>(work: () => Promise<T>): Promise<T> {
    if (!this.locks) return work();
    const run = this.lock.then(work);
    this.lock = run.catch(() => undefined);
    return run;
  }

  later(work: () => void, after: number): void {
    this.timers.push({ at: this.now + after, work });
    this.timers.sort((one, other) => one.at - other.at);
    setImmediate(() => {
      const timer = this.timers.shift();
      if (timer === undefined) return;
      this.now = Math.max(this.now, timer.at);
      timer.work();
    });
  }

  /** Call when something has happened that `until` may wait for. */
  happened(): void {
    const { waiting } = this;
    this.waiting = [];
    for (const look of waiting) look();
  }

  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.waiting.push(resolve));
  }

  get contents(): string[] {
    return this.log.map(({ content }) => content);
  }
}

class Tab {
  readonly database: Database;
  readonly outbox: Outbox;
  shown: readonly Unsent[] = [];
  /** The messages whose events have come. */
  readonly arrived = new Set<string>();
  online = true;
  /** Does not hear what other tabs tell. */
  deaf = false;
  /** Settled when nothing is being sent. */
  idle: Promise<unknown> = Promise.resolve();

  constructor(world: World, database: Database) {
    this.database = database;
    this.outbox = new Outbox({
      store: database.outbox,
      send: (request) => world.send(this, request),
      has: ({ client_id }) => client_id !== null && this.arrived.has(client_id),
      keep: () => this.keep(),
      ready: () => this.online,
      changed: (unsent) => {
        this.shown = unsent;
        world.happened();
      },
      alone: (work) => {
        const run = world.alone(work);
        this.idle = run.catch(() => undefined);
        return run;
      },
      tell: () => {
        for (const tab of world.tabs) if (tab !== this && !tab.deaf) void tab.outbox.load();
      },
      later: (work, after) => world.later(work, after),
    });
  }

  /** Store the room; what is shown afterwards has come back from there. */
  keep = (): Promise<void> => Promise.resolve();

  say(content: string, room_id = "r"): Promise<Unsent> {
    return this.outbox.send(room_id, content);
  }

  get waiting(): string[] {
    return this.shown.map(({ content }) => content);
  }
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(setImmediate);
}

const worlds: World[] = [];

function aWorld(locks = true): World {
  const world = new World(locks);
  worlds.push(world);
  return world;
}

afterEach(async () => {
  for (const world of worlds.splice(0)) for (const tab of [...world.tabs]) await world.close(tab);
});

/** Everything is in the room, and no tab shows anything as waiting. */
function allIsSaid(world: World, count: number): Promise<void> {
  return world.until(() => world.log.length === count && world.tabs.every((tab) => tab.shown.length === 0));
}

const TRANSIENT = ["ok", "lost", "answer lost", "late", "cut off", "limited", "unavailable", "expired"] as const;

test("across losses, limits and reloads, in one tab or two, the room has all messages once, in order", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.constantFrom<Fate>(...TRANSIENT), { maxLength: 30 }),
      fc.array(
        fc.record({
          step: fc.constantFrom("send", "send", "send", "send", "reload", "offline", "online", "other room"),
          tab: fc.nat(1),
          turns: fc.nat(6),
        }),
        { maxLength: 25 },
      ),
      fc.boolean(),
      async (fates, steps, locks) => {
        const world = aWorld(locks);
        world.fates = [...fates];
        await world.open();
        await world.open();
        const sent: string[] = [];
        for (const { step, tab: at, turns: count } of steps) {
          const tab = world.tabs[at] as Tab;
          if (step === "reload") await world.reload(tab);
          else if (step === "offline") tab.online = false;
          else if (step === "online") {
            tab.online = true;
            tab.outbox.wake();
          } else {
            sent.push(`${sent.length}`);
            await tab.say(sent.at(-1) as string, step === "send" ? "r" : "q");
          }
          await turns(count);
        }
        for (const tab of world.tabs) {
          tab.online = true;
          tab.outbox.wake();
        }
        await allIsSaid(world, sent.length);
        expect(world.contents).toEqual(sent);
        expect(await (world.tabs[0] as Tab).database.outbox.all()).toEqual([]);
        for (const tab of [...world.tabs]) await world.close(tab);
      },
    ),
    { numRuns: Number(process.env.RUNS ?? 60), timeout: 10_000 },
  );
});

test("messages written offline survive a reload and are then sent in order", async () => {
  const world = aWorld();
  const tab = await world.open();
  tab.online = false;
  for (const content of ["one", "two", "three"]) await tab.say(content);
  expect(tab.waiting).toEqual(["one", "two", "three"]);
  const next = await world.reload(tab);
  await allIsSaid(world, 3);
  expect([world.contents, next.waiting]).toEqual([["one", "two", "three"], []]);
});

test("a message stays in the store until the room is stored, and is neither shown nor sent again meanwhile", async () => {
  const world = aWorld();
  const tab = await world.open();
  let stored = () => {};
  tab.keep = () => new Promise((resolve) => (stored = resolve));
  const { client_id } = await tab.say("hola");
  await world.until(() => world.log.length === 1);
  tab.arrived.add(client_id);
  void tab.outbox.arrived(client_id);
  await tab.outbox.load();
  tab.outbox.wake();
  await turns(20);
  expect([tab.waiting, world.log.length, (await tab.database.outbox.all()).length]).toEqual([[], 1, 1]);
  stored();
  await tab.idle;
  await turns(20);
  expect(await tab.database.outbox.all()).toEqual([]);
});

test("loading the stored messages does not restore a message that has left the outbox", async () => {
  const tab = await aWorld().open();
  tab.online = false;
  const { client_id } = await tab.say("one");
  const reading = tab.outbox.load();
  await Promise.all([reading, tab.outbox.arrived(client_id)]);
  expect(tab.waiting).toEqual([]);
});

test("a message is stored before it is sent", async () => {
  const world = aWorld();
  const tab = await world.open();
  tab.online = false;
  const { client_id } = await tab.say("one");
  const other = await Database.open(world.name);
  expect((await other.outbox.all()).map((unsent) => unsent.client_id)).toEqual([client_id]);
  other.close();
});

test("a refused message is kept with the reason, and does not delay others", async () => {
  const world = aWorld();
  const tab = await world.open();
  world.fates = ["refused"];
  await tab.say("no");
  await tab.say("yes");
  await world.until(() => world.log.length === 1 && tab.shown.length === 1);
  expect(tab.shown[0]).toMatchObject({ content: "no", refused: "refused: forbidden" });
  const next = await world.reload(tab);
  await next.idle;
  expect(next.waiting).toEqual(["no"]);
  expect(world.asked).toEqual(["no", "yes"]); // it is not tried again by itself
});

test("a refused message is sent on retry, or deleted on request", async () => {
  const world = aWorld();
  const tab = await world.open();
  world.fates = ["refused", "refused"];
  const again = await tab.say("again");
  const gone = await tab.say("gone");
  await world.until(() => tab.shown.filter(({ refused }) => refused !== null).length === 2);
  await tab.outbox.discard(gone.client_id);
  await tab.outbox.retry(again.client_id);
  await allIsSaid(world, 1);
  expect(world.contents).toEqual(["again"]);
  expect(await tab.database.outbox.all()).toEqual([]);
});

test("a retried message is sent at its original position", async () => {
  const world = aWorld();
  const tab = await world.open();
  world.fates = ["refused"];
  const { client_id } = await tab.say("first");
  await world.until(() => tab.shown.some(({ refused }) => refused !== null));
  tab.online = false;
  await tab.say("second");
  await tab.outbox.retry(client_id);
  tab.online = true;
  tab.outbox.wake();
  await allIsSaid(world, 2);
  expect(world.contents).toEqual(["first", "second"]);
});

test("a refusal of another tab's message is recorded, and the message is not sent again", async () => {
  const world = aWorld();
  const [one, other] = [await world.open(), await world.open()];
  one.online = other.online = false;
  other.deaf = true; // what the first one tells comes later
  await one.say("no");
  world.fates = ["refused"];
  other.online = true;
  other.outbox.wake();
  await other.idle;
  expect(world.asked).toEqual(["no"]);
  expect((await other.database.outbox.all()).map(({ refused }) => refused)).toEqual(["refused: forbidden"]);
});

test("nothing is sent before retry_after, then everything in order", async () => {
  const world = aWorld();
  const tab = await world.open();
  world.fates = ["limited", "ok", "limited", "limited"];
  for (const content of ["one", "two", "three", "four"]) {
    await tab.say(content);
    tab.outbox.wake();
  }
  await allIsSaid(world, 4);
  expect(world.contents).toEqual(["one", "two", "three", "four"]);
  expect(world.early).toBe(0);
});

test("of two tabs one sends at a time, and both show the unsent messages", async () => {
  const world = aWorld();
  const [one, other] = [await world.open(), await world.open()];
  one.online = other.online = false;
  await one.say("one");
  await other.say("two");
  await world.until(() => one.shown.length === 2 && other.shown.length === 2);
  for (const tab of [one, other]) expect(tab.waiting).toEqual(["one", "two"]);
  one.online = true;
  other.online = true;
  one.outbox.wake();
  other.outbox.wake();
  await allIsSaid(world, 2);
  expect(world.asked).toEqual(["one", "two"]);
});

test("a message is shown as unsent until its event arrives", async () => {
  const world = aWorld();
  world.silent = true;
  const tab = await world.open();
  const { client_id } = await tab.say("one");
  await tab.idle;
  expect(await tab.database.outbox.all()).toHaveLength(1);
  expect(tab.waiting).toEqual(["one"]);
  await tab.outbox.arrived(client_id);
  expect(await tab.database.outbox.all()).toEqual([]);
  expect(tab.waiting).toEqual([]);
});

test("a stopped outbox sends nothing more", async () => {
  const world = aWorld();
  const tab = await world.open();
  tab.outbox.stop();
  await tab.say("one");
  tab.outbox.wake();
  await tab.idle;
  expect(world.asked).toEqual([]);
  expect(await tab.database.outbox.all()).toHaveLength(1);
});
