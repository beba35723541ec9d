/** Run `npm install` and `npm test` in this folder; `TIDINGS_PYTHON` names a Python with the extra `testing`. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { startTidings } from "@tidings/client/testing";
import { order, show } from "./screen.js";

const shown = [];
let tidings, kitchen, omar;
let displayed = () => undefined;

before(async () => {
  tidings = await startTidings({ app: "kitchen:app" });
  kitchen = await (await tidings.client("ana")).join("kitchen");
  omar = await tidings.client("omar");
  await omar.join("kitchen");
  show(omar, (number) => {
    shown.push(number);
    displayed();
  }).catch(() => undefined); // the client is closed at the end
});

after(() => tidings.stop());

const ready = (number) => kitchen.publish("order.ready", { number });

/** The numbers on the screen, when the last one is there. */
async function screen(last) {
  while (shown.at(-1) !== last)
    await new Promise((resolve) => {
      displayed = resolve;
    });
  return shown;
}

async function placed() {
  const { events } = await kitchen.client.actions.get_events({ topic_name: "kitchen", event: "order.placed" });
  return events.map(({ data }) => data.number);
}

test("a screen that was cut off shows what was ready meanwhile", async () => {
  await tidings.cut(omar, { stay: true });
  await ready(1);
  await ready(2);
  await tidings.restore(omar);
  assert.deepEqual(await screen(2), [1, 2]);
});

test("an order whose answer is lost is placed once", async () => {
  await tidings.loseAnswer(omar, "publish");
  await order(omar, 3);
  assert.deepEqual(await placed(), [3]);
});

test("an order is placed when the store is back", async () => {
  await tidings.stopStore();
  await assert.rejects(omar.actions.history({ topic_name: "kitchen" }), { code: "unavailable" });
  const placing = order(omar, 4);
  await tidings.resumeStore();
  await placing;
  assert.deepEqual(await placed(), [3, 4]);
});

test("the screen goes on after a restart, and when its token has expired", async () => {
  await tidings.restart();
  await ready(5);
  await tidings.advance(48 * 3600);
  await ready(6);
  assert.deepEqual(await screen(6), [1, 2, 5, 6]);
});
