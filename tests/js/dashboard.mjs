// A browser shows examples/dashboard.html, without a gap over a restart of the server.
//
// Given: `url`, `chromium` (its path), and `playwright` (the file of playwright-core). Asks for a restart,
// and for the end of the page's session.
import { createRequire } from "node:module";
import { assert, given, please } from "./support.mjs";

const { chromium } = createRequire(import.meta.url)(given.playwright);
const browser = await chromium.launch({ executablePath: given.chromium, args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage();

const shown = () => page.$$eval("#figures tr td:first-child", (cells) => cells.map((cell) => Number(cell.textContent)));

/** Wait until the page is live and shows an entry from `seq` on; returns all entries that it shows. */
async function from(seq) {
  await page.waitForFunction(
    (seq) =>
      document.querySelector("#state").textContent === "live" &&
      Number(document.querySelector("#figures td")?.textContent) >= seq,
    seq,
  );
  return shown();
}

function assertNoGap(seqs) {
  assert.deepEqual(seqs, Array.from(seqs, (_, at) => seqs[0] - at));
}

await page.goto(given.url);
const before = await from(5);
assertNoGap(before);
await please("restart");
const after = await from(before[0] + 20);
assertNoGap(after);
assert.ok(after.includes(before[0]), "what was shown before the restart is still there");
await please("withdraw");
const signedInAgain = await from(after[0] + 20);
assertNoGap(signedInAgain);
await page.reload();
assertNoGap(await from(signedInAgain[0] + 5));
await browser.close();
console.log(JSON.stringify({ finished: "dashboard" }));
process.exit(0);
