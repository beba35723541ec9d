/** Somebody in front of a browser: a context of their own, and their hands and eyes on its pages. */
import type { Browser, BrowserContext, BrowserContextOptions, Locator, Page } from "playwright-core";
import { Account, PASSWORD } from "./account.ts";

/** What a browser says of a server or a network that is away, or of a server that is about to go (503). */
export const AWAY = /net::ERR_|WebSocket connection to .* failed|WebSocket is already in CLOSING|a status of 503/;
const WITHIN = 30_000;

export class Person {
  /** As they sign in */
  name: string;
  readonly context: BrowserContext;
  readonly url: string;
  /** The page that they look at. */
  page: Page;
  private program: Account | null = null;
  private readonly found: string[] = [];
  private readonly expected: RegExp[] = [];

  private constructor(name: string, url: string, context: BrowserContext, page: Page) {
    this.name = name;
    this.url = url;
    this.context = context;
    this.page = page;
  }

  /** Opens the page, signed out. */
  static async arrive(
    browser: Browser,
    url: string,
    name: string,
    options: BrowserContextOptions = {},
  ): Promise<Person> {
    const context = await browser.newContext({ locale: "en-GB", reducedMotion: "reduce", ...options });
    context.setDefaultTimeout(WITHIN);
    const person = new Person(name, url, context, await context.newPage());
    person.watch();
    await person.page.goto(url);
    return person;
  }

  /** What went wrong in their pages: errors in the console, what the policy refused, requests to other hosts. */
  get problems(): string[] {
    return this.found.filter((problem) => !this.expected.some((pattern) => pattern.test(problem)));
  }

  /** From now on and before, a problem like this is none. */
  expects(pattern: RegExp): void {
    this.expected.push(pattern);
  }

  async signUp(password = PASSWORD): Promise<void> {
    await this.chooses("Create account");
    await this.fillIn(password);
    await this.button("Create account").click();
    await this.seesChat();
  }

  async signIn(password = PASSWORD): Promise<void> {
    await this.fillIn(password);
    await this.button("Sign in").click();
    await this.seesChat();
  }

  /** One of the two ways in. */
  async chooses(way: "Sign in" | "Create account"): Promise<void> {
    await this.page.getByRole("group", { name: "New here?" }).getByText(way, { exact: true }).click();
  }

  async signOut(): Promise<void> {
    await this.menu("Account", "Sign out");
  }

  async fillIn(password = PASSWORD): Promise<void> {
    await this.page.getByRole("textbox", { name: "Username", exact: true }).fill(this.name);
    await this.page.getByLabel("Password", { exact: true }).fill(password);
  }

  /** The chat is there, and connected. */
  async seesChat(): Promise<void> {
    await this.page.getByRole("navigation", { name: "Rooms" }).getByText("Online", { exact: true }).waitFor();
  }

  /** The same user as a program, by the token of this browser. */
  async account(): Promise<Account> {
    if (this.program === null) {
      const kept = await this.page.evaluate(() => localStorage.getItem("tidings.session"));
      const { token } = JSON.parse(kept ?? "null") as { token: string };
      this.program = new Account(this.url, this.name, token);
    }
    return this.program;
  }

  button(name: string | RegExp): Locator {
    return this.page.getByRole("button", typeof name === "string" ? { name, exact: true } : { name });
  }

  /** Choose an item of the menu behind a button. */
  async menu(button: string | RegExp, item: string): Promise<void> {
    await this.button(button).click();
    await this.page.getByRole("menuitem", { name: item, exact: true }).click();
  }

  /** What the toolbar of a message offers. */
  async act(message: string, what: string): Promise<void> {
    const article = this.message(message).first();
    await article.hover();
    await article.getByRole("toolbar", { name: "Actions" }).getByRole("button", { name: what, exact: true }).click();
  }

  /** What the menu of a message offers. */
  async actInMenu(message: string, what: string): Promise<void> {
    await this.act(message, "More actions");
    await this.page.getByRole("menuitem", { name: what, exact: true }).click();
  }

  /** A room in the sidebar. */
  room(name: string): Locator {
    return this.page.getByRole("link", { name, exact: true });
  }

  get log(): Locator {
    return this.page.getByRole("log");
  }

  get box(): Locator {
    return this.page.getByRole("textbox", { name: "Message", exact: true });
  }

  /** The messages on the screen that have this text. */
  message(text: string | RegExp): Locator {
    return this.log.getByRole("article").filter({ hasText: text });
  }

  async enter(room: string): Promise<void> {
    await this.room(room).click();
    // The box alone may still be that of the room before.
    await this.page.getByRole("heading", { level: 1, name: room, exact: true }).waitFor();
    await this.box.waitFor();
  }

  /** Write and send, at the keyboard. */
  async say(...texts: string[]): Promise<void> {
    await this.box.focus();
    for (const text of texts) {
      await this.page.keyboard.insertText(text);
      await this.page.keyboard.press("Enter");
    }
  }

  /** What of the messages fits, of the whole room from top to bottom, as one sees it who scrolls up through all of it. */
  async sees(pattern: RegExp): Promise<string[]> {
    return this.log.evaluate(scrollThrough, pattern.source);
  }

  /** What is on their screen, for who reads of a failure. */
  async describe(): Promise<string> {
    const seen = await this.page.locator("body").ariaSnapshot();
    return `${this.name} at ${this.page.url()} sees:\n${seen}\n`;
  }

  /** Close their browser. */
  async close(): Promise<void> {
    await this.program?.leave();
    await this.context.close();
  }

  private watch(): void {
    const { context, found } = this;
    context.on("console", (message) => {
      if (message.type() === "error") found.push(`console: ${message.text()}`);
    });
    context.on("weberror", (error) => found.push(`uncaught: ${error.error().stack ?? error.error().message}`));
    context.on("dialog", (dialog) => {
      found.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    context.on("request", (request) => {
      const { origin, protocol } = new URL(request.url());
      if (origin !== this.url && protocol !== "data:" && protocol !== "blob:") found.push(`asked: ${request.url()}`);
    });
  }
}

/** An image has come to the screen: its pixels are there. */
export async function isSeen(image: Locator): Promise<void> {
  await image.waitFor();
  await image.evaluate(
    (one: HTMLImageElement) =>
      new Promise<void>((resolve) => {
        if (one.naturalWidth > 0) resolve();
        one.addEventListener("load", () => resolve());
      }),
  );
}

/** Runs in the page. */
export function isFocused(element: Element): boolean {
  return element === document.activeElement;
}

/** Runs in the page. Each screen must overlap the one before: what is between two screens cannot be missed. */
async function scrollThrough(log: Element, pattern: string): Promise<string[]> {
  const expression = new RegExp(pattern);
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  const scroller = [log, ...log.querySelectorAll("*")].find((element) => {
    const { overflowY } = getComputedStyle(element);
    return overflowY === "auto" || overflowY === "scroll";
  });
  if (scroller === undefined) throw new Error("nothing scrolls");
  const shown = () => {
    const { top, bottom } = scroller.getBoundingClientRect();
    const texts: string[] = [];
    for (const article of log.querySelectorAll("article")) {
      const place = article.getBoundingClientRect();
      if (place.bottom < top || place.top > bottom) continue;
      const text = expression.exec(article.textContent ?? "")?.[0];
      if (text !== undefined) texts.push(text);
    }
    return texts;
  };
  const settled = async () => {
    for (let still = 0, last = ""; still < 3; ) {
      await frame();
      const now = `${scroller.scrollTop} ${scroller.scrollHeight} ${shown().join("\n")}`;
      still = now === last ? still + 1 : 0;
      last = now;
    }
  };
  scroller.scrollTop = scroller.scrollHeight;
  await settled();
  scroller.scrollTop = scroller.scrollHeight;
  await settled();
  let seen = shown();
  // The room's beginning has a heading; above what is loaded there is none yet.
  const isAll = () => scroller.scrollTop <= 0 && log.querySelector("h2") !== null;
  for (let idle = 0; idle < 60 && !isAll(); ) {
    const before = scroller.scrollTop;
    scroller.scrollTop -= scroller.clientHeight / 2;
    await settled();
    const now = shown();
    const first = seen[0];
    const overlap = first === undefined ? now.length : now.lastIndexOf(first);
    if (overlap === -1) throw new Error(`nothing of what was above ${first} is on the screen: ${now.join(", ")}`);
    idle = overlap === 0 && scroller.scrollTop === before ? idle + 1 : 0;
    seen = [...now.slice(0, overlap), ...seen];
  }
  if (!isAll()) throw new Error("the beginning of the room is not reached");
  return seen;
}
