/** Beginning a room, and keeping order in it, as somebody does it in front of the page. */
import type { Locator } from "playwright-core";
import type { Person } from "./person.ts";

export async function newConversation(person: Person, others: readonly string[], title = ""): Promise<void> {
  await person.button("New conversation").click();
  const dialog = person.page.getByRole("dialog", { name: "New conversation" });
  for (const [at, other] of others.entries()) {
    await dialog.getByRole("textbox", { name: "Username" }).fill(other);
    if (at < others.length - 1) await dialog.getByRole("button", { name: "Add", exact: true }).click();
  }
  if (title !== "") await dialog.getByRole("textbox", { name: "Group name (optional)" }).fill(title);
  await dialog.getByRole("button", { name: "Start" }).click();
  await dialog.waitFor({ state: "hidden" });
}

export async function newTopic(person: Person, name: string, isPrivate = false): Promise<void> {
  await person.button("New topic").click();
  const dialog = person.page.getByRole("dialog", { name: "New topic" });
  await dialog.getByRole("textbox", { name: "Topic name" }).fill(name);
  if (isPrivate) await dialog.getByRole("checkbox", { name: "Private" }).check();
  await dialog.getByRole("button", { name: "Create" }).click();
  await person.box.waitFor();
}

/** The list of who is in the room, if it is shown. */
export function members(person: Person): Locator {
  return person.page.getByRole("complementary", { name: "Members" });
}

/** Somebody else in that list. */
export function member(person: Person, whom: { readonly name: string }): Locator {
  return members(person).getByRole("button", { name: new RegExp(`^${whom.name}`) });
}

/** Do something about a member who is shown in the list, and confirm it. */
export async function moderate(person: Person, whom: Person, what: string, confirm = what): Promise<void> {
  await member(person, whom).click();
  await person.page.getByRole("menuitem", { name: what, exact: true }).click();
  await person.page.getByRole("dialog").getByRole("button", { name: confirm, exact: true }).click();
  await person.page.getByRole("dialog").waitFor({ state: "hidden" });
}
