/** The administrators' page, and what its visitors see of it. */
import { mkdir } from "node:fs/promises";
import type { Browser, BrowserContextOptions } from "playwright-core";
import { Account } from "./support/account.ts";
import { isAccessible } from "./support/axe.ts";
import { isFocused, Person } from "./support/person.ts";
import { Server } from "./support/server.ts";
import { expect, test } from "./support/world.ts";

const DESKTOP = { viewport: { width: 1280, height: 800 } };
const PHONE = { viewport: { width: 390, height: 844 } };
/** Where to put pictures of what the tests see, if anywhere. */
const PICTURES = process.env.TIDINGS_PICTURES;

/** A server with an administrator, who is signed in at `/admin`. */
async function administered(
  browser: Browser,
  options: BrowserContextOptions,
  work: (root: Person, arrive: (name: string) => Promise<Person>, server: Server) => Promise<void>,
  settings: Record<string, string> = {},
): Promise<void> {
  const server = await Server.start(settings);
  const people: Person[] = [];
  const arrive = async (name: string, options: BrowserContextOptions = {}) => {
    const person = await Person.arrive(browser, server.url, name, options);
    people.push(person);
    return person;
  };
  try {
    const root = await arrive("root", options);
    await root.signUp();
    await server.command("user", "admin", "root");
    await root.page.goto(`${server.url}/admin`);
    await root.page.getByRole("heading", { name: "Users" }).waitFor();
    await work(root, arrive, server);
  } catch (error) {
    for (const person of people) process.stderr.write(await person.describe());
    throw error;
  } finally {
    for (const person of people) await person.close();
    await server.remove();
  }
  expect(people.flatMap(({ problems }) => problems)).toEqual([]);
}

async function section({ page }: Person, name: string): Promise<void> {
  await page.getByRole("navigation", { name: "Administration" }).getByRole("link", { name, exact: true }).click();
  await page.getByRole("heading", { level: 2 }).first().waitFor();
}

function row({ page }: Person, text: string | RegExp) {
  return page.getByRole("row").filter({ hasText: text });
}

async function dialog({ page }: Person, name: string | RegExp) {
  const opened = page.getByRole("dialog", { name });
  await opened.waitFor();
  return opened;
}

test("a disabled user is signed out at once, and cannot sign in until they are enabled", ({ browser }) =>
  administered(browser, DESKTOP, async (root, arrive) => {
    const omar = await arrive("omar");
    omar.expects(/status of 401/);
    await omar.signUp();
    await root.page.getByRole("searchbox", { name: "Find a user" }).fill("oma");
    await row(root, "omar").getByText("Online").waitFor();
    await root.menu("Actions for omar", "Sessions");
    await (await dialog(root, "Sessions of omar")).getByText(/Chrome on/).waitFor();
    await root.page.keyboard.press("Escape");
    await root.menu("Actions for omar", "Disable");
    await (await dialog(root, "Disable omar?")).getByRole("button", { name: "Disable" }).click();
    await omar.page.getByText("This session was signed out. Please sign in again.").waitFor();
    await row(root, "omar").getByText("Disabled").waitFor();
    await omar.fillIn();
    await omar.button("Sign in").click();
    await omar.page.getByText(/wrong username or password/i).waitFor();
    await root.menu("Actions for omar", "Enable");
    await root.page.getByRole("status").getByText("omar may sign in again.").waitFor();
    await omar.signIn();
    await root.menu("Actions for omar", "Sign out everywhere");
    await (await dialog(root, /Sign out omar/)).getByRole("button", { name: "Sign out everywhere" }).click();
    await omar.page.getByText("This session was signed out. Please sign in again.").waitFor();
    await root.menu("Actions for omar", "Delete account");
    await (await dialog(root, /Delete the account/)).getByRole("button", { name: "Delete for ever" }).click();
    await row(root, "omar").getByText("Disabled").or(root.page.getByText("There are no such users.")).waitFor();
  }));

test("a user is disabled by keyboard alone, and the focus comes back to their row", ({ browser }) =>
  administered(browser, DESKTOP, async (root, _, server) => {
    await (await Account.create(server.url, "omar")).leave();
    await root.page.reload();
    const { keyboard } = root.page;
    const menu = root.button("Actions for omar");
    await menu.focus();
    await keyboard.press("Enter");
    await root.page.getByRole("menu").waitFor();
    await keyboard.type("Dis");
    await keyboard.press("Enter");
    const asked = await dialog(root, "Disable omar?");
    await expect.poll(() => asked.getByRole("button", { name: "Cancel" }).evaluate(isFocused)).toBe(true);
    await keyboard.press("Tab");
    await keyboard.press("Enter");
    await row(root, "omar").getByText("Disabled").waitFor();
    await expect.poll(() => menu.evaluate(isFocused)).toBe(true);
  }));

test("by the link of an administrator a user sets a new password, once", ({ browser }) =>
  administered(browser, DESKTOP, async (root, arrive) => {
    const omar = await arrive("omar");
    omar.expects(/status of (401|403|422)/);
    await omar.signUp();
    await root.page.reload();
    await root.menu("Actions for omar", "Reset password");
    const made = await dialog(root, "New password for omar");
    await made.getByRole("button", { name: "Create a link" }).click();
    const link = await made.getByRole("textbox", { name: "Link" }).inputValue();
    const elsewhere = await arrive("omar");
    elsewhere.expects(/status of (403|422)/);
    await elsewhere.page.goto(link);
    await elsewhere.page.getByLabel("New password").fill("short");
    await elsewhere.button("Set the password").click();
    await elsewhere.page
      .getByText(/at least 8 characters/)
      .last()
      .waitFor();
    await isAccessible(elsewhere, "a new password");
    await elsewhere.page.getByLabel("New password").fill("battery staple");
    await elsewhere.button("Set the password").click();
    await elsewhere.seesChat();
    expect(elsewhere.page.url()).not.toContain("reset");
    await omar.page.getByText("This session was signed out. Please sign in again.").waitFor();
    await omar.signIn("battery staple");
    await elsewhere.page.goto(link);
    await elsewhere.page.getByLabel("New password").fill("another horse");
    await elsewhere.button("Set the password").click();
    await elsewhere.page.getByText(/the link is not valid/i).waitFor();
  }));

test("an administrator changes who may register, and makes a link for a newcomer", ({ browser }) =>
  administered(browser, PHONE, async (root, arrive) => {
    await section(root, "Registration");
    await root.page.getByRole("radio", { name: "Whoever has an invitation link" }).check();
    await root.page.getByRole("status").getByText("Saved.").waitFor();
    const omar = await arrive("omar");
    await omar.chooses("Create account");
    await omar.page.getByText("To create an account, open the link of an administrator.").waitFor();
    await root.button("Create an invitation link…").click();
    const made = await dialog(root, "New invitation link");
    await made.getByLabel("How many people may use it").fill("2");
    await made.getByRole("button", { name: "Create a link" }).click();
    await omar.page.goto(await made.getByRole("textbox", { name: "Link" }).inputValue());
    await omar.signUp();
    await root.page.keyboard.press("Escape");
    await row(root, "root").getByText("1", { exact: true }).waitFor();
    await root.button(/^Delete the link/).click();
    await root.page.getByText("There are no invitation links.").waitFor();
    await root.page.getByRole("radio", { name: "Nobody" }).check();
    await root.page.getByRole("status").getByText("Saved.").waitFor();
    const diego = await arrive("diego");
    await diego.chooses("Create account");
    await diego.page.getByText(/administrators of this server only/).waitFor();
  }));

test("an administrator closes a report, deletes a room, makes and revokes a key, and finds it in the audit log", ({
  browser,
}) =>
  administered(browser, DESKTOP, async (root, _, server) => {
    const [omar, diego] = await Promise.all([
      Account.create(server.url, "omar"),
      Account.create(server.url, "diego"),
    ]);
    const room = await omar.topic("noticias");
    await diego.join("noticias");
    const { id } = await omar.say(room, "Cheap watches at https://example.org");
    await diego.ask("report", { message_id: id, reason: "an advertisement" });
    await section(root, "Reports");
    await row(root, "Cheap watches").getByText("an advertisement").waitFor();
    await root.button(/^Close report by diego/).click();
    await root.page.getByText("There are no open reports.").waitFor();

    await section(root, "Rooms");
    await row(root, "noticias").getByText("about").waitFor();
    await root.button("Delete noticias").click();
    await (await dialog(root, "Delete noticias?")).getByRole("button", { name: "Delete for ever" }).click();
    await root.page.getByText("There are no topics and no groups yet.").waitFor();
    await expect.poll(() => root.page.getByRole("heading", { name: "Rooms" }).evaluate(isFocused)).toBe(true);

    await section(root, "Keys");
    await root.button("Create a key…").click();
    const made = await dialog(root, "New key");
    await made.getByLabel("Name, as others see it").fill("shop");
    await made.getByRole("button", { name: "Create a key" }).click();
    expect(await made.getByRole("textbox", { name: "Key" }).inputValue()).toMatch(/^tk_/);
    await root.page.keyboard.press("Escape");
    await root.button("Revoke the key of shop").click();
    await (await dialog(root, /Revoke the key/)).getByRole("button", { name: "Revoke" }).click();
    await row(root, "shop").getByText("Revoked").waitFor();

    await section(root, "Audit log");
    for (const action of ["delete_room", "admin_create_key", "admin_revoke_key"])
      await row(root, action).getByText("root").waitFor();
    await Promise.all([omar.leave(), diego.leave()]);
  }));

for (const [size, options] of [
  ["desktop", DESKTOP],
  ["phone", PHONE],
] as const)
  test(`health is shown, and axe-core finds nothing on any section, on a ${size}`, ({ browser }) =>
    administered(
      browser,
      options,
      async (root, _, server) => {
        expect(await root.page.title()).toBe("Administration · Café <Central>");
        const omar = await Account.create(server.url, "omar");
        const room = await omar.topic("noticias");
        const diego = await Account.create(server.url, "diego");
        await diego.join("noticias");
        const { id } = await omar.say(room, "Cheap watches");
        await diego.ask("report", { message_id: id, reason: "an advertisement" });
        await root.page.reload();
        for (const name of ["Users", "Rooms", "Reports", "Registration", "Keys", "Webhooks", "Audit log", "Health"]) {
          await section(root, name);
          await expect.poll(() => root.page.getByText("Loading…").count()).toBe(0);
          if (name === "Health") await root.page.getByText("Everything works.").waitFor();
          if (PICTURES !== undefined) {
            await mkdir(PICTURES, { recursive: true });
            for (const colorScheme of ["light", "dark"] as const) {
              await root.page.emulateMedia({ colorScheme });
              await root.page.screenshot({ path: `${PICTURES}/${size}-${name}-${colorScheme}.png` });
            }
          }
          await isAccessible(root, name);
          const wide = await root.page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
          expect(wide, name).toBe(false);
        }
        await root.page.getByText("Delivery of a message").waitFor();
        await Promise.all([omar.leave(), diego.leave()]);
      },
      { TIDINGS_SERVER_NAME: "Café <Central>" },
    ));

test("the page is for administrators, who find it in their settings", ({ browser }) =>
  administered(browser, DESKTOP, async (root, arrive, server) => {
    const omar = await arrive("omar");
    await omar.signUp();
    await omar.page.goto(`${server.url}/admin`);
    await omar.page.getByText("Only administrators of this server can see this page.").waitFor();
    expect(await omar.page.getByRole("navigation").count()).toBe(0);
    await root.page.getByRole("link", { name: "To the chat" }).click();
    await root.seesChat();
    await root.menu("Account", "Settings");
    await root.page.getByRole("tab", { name: "Account" }).click();
    await root.page.getByRole("link", { name: "Administer this server" }).click();
    await root.page.getByRole("heading", { name: "Users" }).waitFor();
  }));
