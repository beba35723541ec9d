/** Push notifications: the page subscribes, and the service worker shows what arrives. */
import type { CDPSession } from "playwright-core";
import { Account } from "./support/account.ts";
import type { Person } from "./support/person.ts";
import { expect, test } from "./support/world.ts";

/** A browser that is driven has no push service: only this one function is replaced. */
function subscribes(endpoint: string): void {
  const keys = {
    p256dh: "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
    auth: "BTBZMqHH6r4Tts7J_aSIgg",
  };
  PushManager.prototype.subscribe = async (options) => {
    Object.assign(window, { asked: options });
    return { toJSON: () => ({ endpoint, keys }) } as unknown as PushSubscription;
  };
}

async function switchOn(person: Person): Promise<void> {
  await person.page.addInitScript(subscribes, "https://push.invalid/of-this-browser");
  await person.page.reload();
  await person.seesChat();
  await person.page.evaluate(async () => void (await navigator.serviceWorker.ready));
  await person.menu("Account", "Settings");
  await person.page.getByRole("checkbox", { name: "Notify this device while the page is closed" }).click();
  await person.page.getByRole("checkbox", { name: "Show who wrote what" }).waitFor();
}

/** Delivers push messages to the service worker of a page, as the browser does. */
async function delivery(person: Person): Promise<(message: object) => Promise<void>> {
  const browser: CDPSession = await person.context.newCDPSession(person.page);
  const registered = new Promise<string>((resolve) => {
    browser.on("ServiceWorker.workerRegistrationUpdated", ({ registrations }) => {
      for (const { registrationId, scopeURL } of registrations)
        if (scopeURL.startsWith(person.url)) resolve(registrationId);
    });
  });
  await browser.send("ServiceWorker.enable");
  const registrationId = await registered;
  const origin = new URL(person.url).origin;
  return async (message) => {
    await browser.send("ServiceWorker.deliverPushMessage", { origin, registrationId, data: JSON.stringify(message) });
  };
}

const shown = (person: Person) =>
  person.page.evaluate(async () => {
    const registration = await navigator.serviceWorker.ready;
    return (await registration.getNotifications()).map(({ title, body, tag }) => ({ title, body, tag }));
  });

/** A driven browser calls every page seen: here all of them are in the background. */
const BACKGROUND = `Object.defineProperty(WindowClient.prototype, "visibilityState", { get: () => "hidden" })`;

test("a user switches them on and off in the settings, and hides the content", async ({ person }) => {
  const omar = await person("omar", { permissions: ["notifications"] });
  await switchOn(omar);
  const account = await omar.account();
  const subscribed = async () => (await account.ask("get_push", {})).subscriptions;
  expect(await subscribed()).toMatchObject([{ provider: "web", with_content: true, current: true }]);
  const asked = await omar.page.evaluate(() => (window as unknown as { asked: PushSubscriptionOptionsInit }).asked);
  const { public_key } = await account.ask("get_push", {});
  expect(asked).toEqual({ userVisibleOnly: true, applicationServerKey: public_key });
  await omar.page.getByRole("checkbox", { name: "Show who wrote what" }).click();
  await expect.poll(subscribed).toMatchObject([{ with_content: false }]);

  await omar.page.getByRole("checkbox", { name: "Notify this device while the page is closed" }).click();
  await expect.poll(subscribed).toEqual([]);
});

test("they end with the session, and go on with the next one of the same user", async ({ person }) => {
  const omar = await person("omar", { permissions: ["notifications"] });
  await switchOn(omar);
  const before = await omar.account();
  const [{ subscription_id } = { subscription_id: "" }] = (await before.ask("get_push", {})).subscriptions;
  await omar.page.getByRole("button", { name: "Close" }).click();
  await before.ask("logout", {});
  await omar.page.getByText("This session was signed out. Please sign in again.").waitFor();
  await omar.signIn();
  const kept = await omar.page.evaluate(() => localStorage.getItem("tidings.session"));
  const after = new Account(omar.url, omar.name, (JSON.parse(kept ?? "null") as { token: string }).token);
  const subscribed = async () => (await after.ask("get_push", {})).subscriptions;
  await expect.poll(subscribed).toMatchObject([{ current: true, with_content: true }]);
  expect((await subscribed())[0]?.subscription_id).not.toBe(subscription_id);
});

test("they go on after the browser has ended a subscription: at once, or when the page is next opened", async ({
  person,
}) => {
  const omar = await person("omar", { permissions: ["notifications"] });
  await switchOn(omar);
  const account = await omar.account();
  const subscribed = async () =>
    (await account.ask("get_push", {})).subscriptions.map(({ current, with_content }) => ({ current, with_content }));
  const one = { current: true, with_content: true };
  expect(await subscribed()).toEqual([one]);
  const [worker] = omar.context.serviceWorkers();
  if (worker === undefined) throw new Error("no service worker");
  // The server keeps the one that ended until the push service says so.
  await worker.evaluate(() => {
    const keys = {
      p256dh: "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
      auth: "BTBZMqHH6r4Tts7J_aSIgg",
    };
    PushManager.prototype.subscribe = async () =>
      ({ toJSON: () => ({ endpoint: "https://push.invalid/anew", keys }) }) as unknown as PushSubscription;
    self.dispatchEvent(Object.assign(new Event("pushsubscriptionchange"), { waitUntil: () => undefined }));
  });
  await expect.poll(subscribed).toEqual([one, one]);

  await omar.page.addInitScript(subscribes, "https://push.invalid/of-the-next-visit");
  await omar.page.reload();
  await expect.poll(subscribed).toEqual([one, one, one]);
});

test("the service worker shows a message of a page in the background, and replaces the one of the same room", async ({
  person,
}) => {
  const omar = await person("omar", { permissions: ["notifications"] });
  await switchOn(omar);
  const deliver = await delivery(omar);
  const message = {
    room_id: "r1",
    title: "news",
    seq: 1,
    thread: null,
    sender: "diego",
    display_name: null,
    unread: 1,
  };
  await deliver({ ...message, text: "in front of the page" });
  const [worker] = omar.context.serviceWorkers();
  if (worker === undefined) throw new Error("no service worker");
  await worker.evaluate(BACKGROUND);
  expect(await shown(omar)).toEqual([]);
  await deliver({ ...message, text: "one" });
  await expect.poll(() => shown(omar)).toEqual([{ title: "diego in news", body: "one", tag: "r1" }]);
  await deliver({ ...message, seq: 2, text: "two" });
  await expect.poll(() => shown(omar)).toEqual([{ title: "diego in news", body: "two", tag: "r1" }]);
  await deliver({ ...message, text: "one, late" });
  await deliver({ ...message, room_id: "r2", title: null, sender: null, text: null });
  await expect
    .poll(() => shown(omar))
    .toEqual([
      { title: "diego in news", body: "two", tag: "r1" },
      { title: "New message", body: "", tag: "r2" },
    ]);
});

test("a reply in a notification is sent, and a press opens the room", async ({ person, account }) => {
  const omar = await person("omar", { permissions: ["notifications"] });
  await switchOn(omar);
  const diego = await account("diego");
  const { room_id, seq } = await diego.ask("message", { username: omar.name, content: "hola" });
  const deliver = await delivery(omar);
  const [worker] = omar.context.serviceWorkers();
  if (worker === undefined) throw new Error("no service worker");
  await worker.evaluate(BACKGROUND);
  const message = { room_id, title: null, seq, thread: null, sender: diego.name, display_name: null, unread: 1 };
  await deliver({ ...message, text: "hola" });
  await expect.poll(() => shown(omar)).toHaveLength(1);
  // A browser that is driven cannot press a notification.
  const press = (fields: { action: string; reply?: string }) =>
    worker.evaluate(async (fields) => {
      const { registration } = self as unknown as ServiceWorkerGlobalScope;
      const [notification] = await registration.getNotifications();
      if (notification === undefined) throw new Error("nothing is shown");
      const event = new NotificationEvent("notificationclick", { notification, ...fields });
      self.dispatchEvent(Object.assign(event, { waitUntil: () => undefined }));
    }, fields);
  await press({ action: "reply", reply: " buenas " });
  const contents = async () =>
    (await diego.ask("history", { room_id })).messages.map(({ sender, content }) => `${sender}: ${content}`);
  await expect.poll(contents).toEqual([`${diego.name}: hola`, `${omar.name}: buenas`]);
  await expect.poll(() => shown(omar)).toEqual([]);

  const later = await diego.ask("message", { room_id, content: "hasta luego" });
  await deliver({ ...message, seq: later.seq, text: "hasta luego" });
  await expect.poll(() => shown(omar)).toHaveLength(1);
  await omar.page.evaluate(() => window.location.assign("#/"));
  await press({ action: "" });
  await expect.poll(() => new URL(omar.page.url()).hash).toBe(`#/room/${room_id}/${later.seq}`);
});
