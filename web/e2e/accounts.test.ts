/** Accounts, sessions and what a browser keeps of them. */
import { PASSWORD } from "./support/account.ts";
import type { Person } from "./support/person.ts";
import { expect, test } from "./support/world.ts";

async function openSettings(person: Person, tab: string) {
  await person.menu("Account", "Settings");
  await person.page.getByRole("tab", { name: tab }).click();
  return person.page.getByRole("dialog", { name: "Settings" });
}

test("a wrong password and a name that is taken are told as such; the right password lets in", async ({
  visitor,
  person,
}) => {
  const omar = await person("omar");
  const other = await visitor("other");
  other.expects(/status of (401|409)/);
  other.name = omar.name;
  await other.fillIn("wrong horse");
  await other.button("Sign in").click();
  await expect.poll(() => other.page.getByRole("alert").textContent()).toMatch(/password/);
  await other.button("Create account").click();
  await expect.poll(() => other.page.getByRole("alert").textContent()).toMatch(/taken/);
  await other.signIn();
});

test("signing out forgets all that was kept, also after a reload", async ({ person }) => {
  const omar = await person("omar");
  const topic = `kept ${omar.name}`;
  const room = await (await omar.account()).topic(topic);
  await omar.enter(topic);
  await omar.say("a secret");
  await omar.message("a secret").waitFor();
  await omar.page.reload();
  await omar.message("a secret").waitFor();
  await omar.button("Sign out").click();
  await omar.button("Sign in").waitFor();
  const kept = () =>
    omar.page.evaluate(async () => ({
      databases: (await indexedDB.databases()).map(({ name }) => name),
      session: localStorage.getItem("tidings.session"),
      address: location.hash,
    }));
  await expect.poll(async () => (await kept()).databases).toEqual([]);
  expect((await kept()).session).toBeNull();
  await omar.page.goto(`${omar.url}/#/room/${room}`);
  await omar.page.reload();
  await omar.button("Sign in").waitFor();
  expect(await omar.page.getByText("a secret").count()).toBe(0);
});

test("a device is seen and its session ended from another, which asks it to sign in; so does another password", async ({
  visitor,
  person,
}) => {
  const omar = await person("omar");
  const phone = await visitor("phone");
  phone.expects(/status of 401/);
  phone.name = omar.name;
  await phone.signIn();

  const settings = await openSettings(omar, "Devices");
  await expect.poll(() => settings.getByRole("listitem").count()).toBe(2);
  await settings.getByRole("button", { name: /End the session/ }).click();
  await expect.poll(() => settings.getByRole("listitem").count()).toBe(1);
  await phone.page.getByText("This session was ended. Please sign in again.").waitFor();
  await phone.signIn();

  await settings.getByRole("tab", { name: "Security" }).click();
  await settings.getByLabel("Present password").fill(PASSWORD);
  await settings.getByLabel("New password").fill("another horse");
  await settings.getByLabel("New password").press("Enter");
  await phone.page.getByText("This session was ended. Please sign in again.").waitFor();
  await phone.signIn("another horse");
  await omar.page.keyboard.press("Escape");
  await omar.seesChat();
});
