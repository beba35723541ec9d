/**
 * `test` with a world: of each worker one server and one browser; of each test its people, each in a browser context
 * of their own. A test fails if a page of its people complained, was held back by its policy, or asked another host.
 */
import type { BrowserContextOptions } from "playwright-core";
import { test as base, expect } from "vitest";
import { Account } from "./account.ts";
import { findChromium, launch, MISSING } from "./chromium.ts";
import { Person } from "./person.ts";
import { Server } from "./server.ts";

const path = findChromium();
if (path === null) process.stderr.write(`skipped: ${MISSING}\n`);

/** Names are unique: the tests share a server. */
let made = 0;

export const hasBrowser = path !== null;
/** To be extended by tests that need another server. */
export const world = base
  .extend("start", { scope: "worker" }, { server: () => Server.start(), browser: () => launch(path ?? "") })
  .extend("server", { scope: "worker" }, async ({ start }, { onCleanup }) => {
    const server = await start.server();
    onCleanup(() => server.remove());
    return server;
  })
  .extend("browser", { scope: "worker" }, async ({ start }, { onCleanup }) => {
    const browser = await start.browser();
    onCleanup(() => browser.close());
    return browser;
  })
  .extend("people", async ({ task, server }, { onCleanup }) => {
    const people: Person[] = [];
    onCleanup(async () => {
      if (task.result?.state === "fail") for (const person of people) process.stderr.write(await person.describe());
      const problems = people.flatMap((person) => person.problems.map((problem) => `${person.name}: ${problem}`));
      await Promise.all(people.map((person) => person.close()));
      await server.resume();
      expect(problems, task.name).toEqual([]);
    });
    return people;
  })
  /** Somebody who opens the page, and has no account yet. */
  .extend("visitor", ({ server, browser, people }) => {
    return async (name: string, options?: BrowserContextOptions): Promise<Person> => {
      made += 1;
      const person = await Person.arrive(browser, server.url, `${name}${made}`, options);
      people.push(person);
      return person;
    };
  })
  /** Somebody who has signed up through the page. */
  .extend("person", ({ visitor }) => {
    return async (name: string, options?: BrowserContextOptions): Promise<Person> => {
      const person = await visitor(name, options);
      await person.signUp();
      return person;
    };
  })
  /** Somebody who has an account, and no page. */
  .extend("account", ({ server }, { onCleanup }) => {
    const accounts: Account[] = [];
    onCleanup(async () => {
      for (const account of accounts) await account.leave();
    });
    return async (name: string): Promise<Account> => {
      made += 1;
      const account = await Account.create(server.url, `${name}${made}`);
      accounts.push(account);
      return account;
    };
  });

export const test = path === null ? world.skip : world;
export { expect };
