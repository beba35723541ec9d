/** Who looks elsewhere hears of what is for them. */
import { expect, test } from "./support/world.ts";

test("a mention and a direct message notify a user of a hidden page, and its title counts them", async ({
  person,
  account,
}) => {
  const omar = await person("omar", { permissions: ["notifications"] });
  const diego = await account("diego");
  const topic = `news ${omar.name}`;
  const room = await diego.topic(topic);
  await (await omar.account()).join(topic);
  const direct = await diego.ask("create_conversation", { usernames: [omar.name] });
  await omar.room(diego.name).waitFor();
  await omar.page.evaluate(async () => void (await navigator.serviceWorker.ready));
  // Another tab in front of it would hide it, if a browser that is driven did not call every page seen.
  await omar.page.evaluate(() => {
    Object.defineProperty(document, "hidden", { get: () => true });
    document.dispatchEvent(new Event("visibilitychange"));
  });

  await diego.say(room, "for nobody in particular");
  await diego.say(room, `@${omar.name} for you`);
  await diego.say(direct.room_id, "for you alone");
  const shown = () =>
    omar.page.evaluate(async () => {
      const registration = await navigator.serviceWorker.ready;
      return (await registration.getNotifications()).map(({ title, body }) => `${title}: ${body}`).sort();
    });
  await expect
    .poll(shown)
    .toEqual([`${diego.name} in ${topic}: @${omar.name} for you`, `${diego.name}: for you alone`].sort());
  await expect.poll(() => omar.page.title()).toBe("(3) Tidings");
});

test("the page can be installed", async ({ person }) => {
  const omar = await person("omar");
  await omar.page.evaluate(async () => void (await navigator.serviceWorker.ready));
  const browser = await omar.context.newCDPSession(omar.page);
  const { errors } = await browser.send("Page.getAppManifest");
  expect(errors).toEqual([]);
  const { installabilityErrors } = await browser.send("Page.getInstallabilityErrors");
  // A context of a test counts as a private window, which installs nothing.
  expect(installabilityErrors.map(({ errorId }) => errorId).filter((id) => id !== "in-incognito")).toEqual([]);
});
