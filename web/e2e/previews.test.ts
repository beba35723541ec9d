/** The cards of the pages that links in messages lead to. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { isAccessible } from "./support/axe.ts";
import { Server } from "./support/server.ts";
import { expect, hasBrowser, world } from "./support/world.ts";

const PHONE = { viewport: { width: 390, height: 844 } };
/** A web site of the tests' own */
class Site {
  url = "";
  readonly pages = new Map<string, string>();
  readonly asked: string[] = [];
  /** Answers wait for it. */
  opened: Promise<void> = Promise.resolve();
  private readonly web = createServer(async ({ url = "" }, response) => {
    this.asked.push(url);
    await this.opened;
    const page = this.pages.get(url);
    response.writeHead(page === undefined ? 404 : 200, { "content-type": "text/html; charset=utf-8" }).end(page);
  });

  async start(): Promise<void> {
    await new Promise<void>((resolve) => this.web.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${(this.web.address() as AddressInfo).port}`;
  }

  stop(): void {
    this.web.close();
  }
}

/** Where to put pictures of what the tests see, if anywhere. */
const PICTURES = process.env.TIDINGS_PICTURES;

const linked = world
  .extend("server", { scope: "worker" }, async ({ start: _ }, { onCleanup }) => {
    const server = await Server.start({ TIDINGS_LINK_PREVIEWS: "on" }, "--app", "web.e2e.support.previews:app");
    onCleanup(() => server.remove());
    return server;
  })
  .extend("site", async ({ task: _ }, { onCleanup }) => {
    const site = new Site();
    await site.start();
    onCleanup(() => site.stop());
    return site;
  });
const test = hasBrowser ? linked : linked.skip;

test("a link is shown with the title of its page, to all readers for one request, until its author removes it", async ({
  person,
  site,
}) => {
  const [omar, lucia] = await Promise.all([person("omar"), person("lucia", PHONE)]);
  const author = await omar.account();
  const topic = `links of ${omar.name}`;
  const room_id = await author.topic(topic);
  await (await lucia.account()).join(topic);
  site.pages.set(
    "/menu",
    `<title>No</title><meta property="og:title" content="Today's <b>menu</b> &#x202e;desrever"><meta name="description"
     content="Soup, fish and a cake, ${"which is described at length ".repeat(20)}"><meta property="og:site_name" content="The Corner">`,
  );
  site.pages.set(encodeURI("/עברית"), `<title>כותרת של דף בעברית</title>`);
  for (let number = 1; number <= 20; number++) await author.say(room_id, `letter ${number}`);
  const reader = await lucia.account();
  await reader.ask("read", { room_id, seq: (await reader.history(room_id)).at(-1)?.seq ?? 0 });
  await Promise.all([omar.enter(topic), lucia.enter(topic)]);
  const content = `Look: ${site.url}/menu, and ${site.url}/עברית. Not <${site.url}/hidden> nor ${site.url}/gone`;
  await author.say(room_id, content);
  for (const reader of [omar, lucia]) {
    const card = reader.message("Look:").locator(".link-preview");
    const link = card.getByRole("link", { name: "Today's <b>menu</b> desrever" });
    await link.waitFor();
    expect(await link.getAttribute("href")).toBe(`${site.url}/menu`);
    expect(await link.getAttribute("rel")).toBe("noopener noreferrer nofollow");
    await card.getByText("The Corner", { exact: true }).waitFor();
    await card.getByText("Soup, fish").waitFor();
    await card.getByRole("link", { name: "כותרת של דף בעברית" }).waitFor();
    expect(await card.count()).toBe(2);
    // It stays at the end, although the cards came later than the message.
    await expect
      .poll(() =>
        reader.log.evaluate(({ scrollHeight, clientHeight, scrollTop }) => scrollHeight - clientHeight - scrollTop),
      )
      .toBeLessThan(2);
    await isAccessible(reader, `a preview, as ${reader.name} sees it`);
    for (const colorScheme of PICTURES === undefined ? [] : (["light", "dark"] as const)) {
      await reader.page.emulateMedia({ colorScheme });
      await reader.page.screenshot({ path: `${PICTURES}/previews-${reader.name}-${colorScheme}.png` });
    }
  }
  expect([...site.asked].sort()).toEqual([encodeURI("/עברית"), "/gone", "/menu"]);
  expect(await lucia.button("Remove preview").count()).toBe(0);

  const first = (reader: typeof omar) => reader.message("Look:").getByRole("link", { name: "menu" });
  await omar.button("Remove preview").first().click();
  for (const reader of [omar, lucia]) {
    await expect.poll(() => reader.message("Look:").locator(".link-preview").count()).toBe(1);
    expect(await first(reader).getAttribute("href")).toBe(`${site.url}/menu`);
  }
  const edited = (await author.history(room_id)).at(-1)?.content;
  expect(edited).toBe(content.replace(`${site.url}/menu`, `<${site.url}/menu>`));
});

test("cards that appear above do not move what somebody reads", async ({ person, account, site }) => {
  const low = { viewport: { width: 1280, height: 500 } };
  const [author, lucia] = await Promise.all([account("omar"), person("lucia", low)]);
  const topic = `more links of ${author.name}`;
  const room_id = await author.topic(topic);
  const reader = await lucia.account();
  await reader.join(topic);
  let open = () => {};
  site.opened = new Promise((resolve) => {
    open = resolve;
  });
  for (let number = 1; number <= 30; number++) {
    site.pages.set(`/${number}`, `<title>Page ${number}</title><meta name=description content="Of a letter">`);
    await author.say(
      room_id,
      number < 15 && number > 5 ? `letter ${number} ${site.url}/${number}` : `letter ${number}`,
    );
  }
  await reader.ask("read", { room_id, seq: (await reader.history(room_id)).at(-1)?.seq ?? 0 });
  await lucia.enter(topic);
  const read = lucia.message(/letter 17\b/);
  await read.evaluate((row) => row.scrollIntoView({ block: "start" }));
  const top = () => read.evaluate((row) => row.getBoundingClientRect().top);
  await expect.poll(() => site.asked.length).toBeGreaterThan(0);
  const before = await top();
  open();
  await lucia.log.locator(".link-preview").nth(2).waitFor({ state: "attached" });
  expect(Math.abs((await top()) - before)).toBeLessThan(2);
});
