// Opens rooms in Chromium, one after the other, and says whether the page survives what is in them.
// Started with a JSON object: `url`, `chromium`, `username`, `password`, `rooms` as [{name, room_id, text}].
import { createRequire } from "node:module";

const require = createRequire(new URL("../../../web/", import.meta.url));
const { chromium } = require("playwright-core");
const given = JSON.parse(process.argv[2]);

const browser = await chromium.launch({
  executablePath: given.chromium,
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
});
const found = {};
try {
  const context = await browser.newContext({ locale: "en-GB", reducedMotion: "reduce", serviceWorkers: "block" });
  context.setDefaultTimeout(given.patience);
  let page = await context.newPage();
  await page.goto(given.url);
  await page.getByRole("textbox", { name: "Username", exact: true }).fill(given.username);
  await page.getByLabel("Password", { exact: true }).fill(given.password);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await page.getByRole("navigation", { name: "Rooms" }).waitFor();
  for (const { name, room_id, text } of given.rooms) {
    const dialogs = [];
    page.on("dialog", (dialog) => (dialogs.push(dialog.message()), dialog.dismiss()));
    const began = performance.now();
    try {
      await page.goto(`${given.url}/#/room/${room_id}`);
      // What was said last, below the content that is tried.
      await page.getByRole("log").getByText(text, { exact: true }).first().waitFor();
      const settled = performance.now();
      await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(resolve)));
      found[name] = { ok: dialogs.length === 0, ms: Math.round(performance.now() - began), last: settled - began, dialogs };
    } catch (error) {
      found[name] = { ok: false, ms: Math.round(performance.now() - began), why: String(error.message).split("\n")[0] };
    }
    await page.close({ runBeforeUnload: false }).catch(() => {});
    page = await context.newPage();
  }
} finally {
  console.log(JSON.stringify(found));
  await browser.close();
}
