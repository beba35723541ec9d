import fc from "fast-check";
import { expect, test } from "vitest";
import { Loading, type LoadingOptions } from "../src/loading.ts";
import { initial } from "../src/store.ts";

/** The `history` of a room whose messages have these times, and gaps where a seq is no message. */
function roomOf(times: readonly (number | null)[]) {
  let asked = 0;
  const messages = times.flatMap((at, index) => (at === null ? [] : [{ seq: index + 1, created_at: timeOf(at) }]));
  const ask = async (_: string, { before }: { before: number }) => {
    asked++;
    return { messages: messages.filter(({ seq }) => seq < before).slice(-1), has_more: false };
  };
  const rooms = new Map([["r", { room: { last_seq: times.length } }]]);
  const options = { ask, state: () => ({ ...initial("omar"), rooms }), take: () => undefined };
  return { messages, load: new Loading(options as unknown as LoadingOptions), asked: () => asked };
}

function timeOf(at: number): string {
  return new Date(1_790_000_000_000 + at).toISOString();
}

test("the first message since a time is found with few requests", async () => {
  const times = fc.array(fc.option(fc.nat(50)), { maxLength: 60 });
  await fc.assert(
    fc.asyncProperty(times, fc.nat(60), async (times, at) => {
      let last = 0;
      const growing = times.map((time) => {
        if (time !== null) last = Math.max(last, time);
        return time === null ? null : last;
      });
      const { messages, load, asked } = roomOf(growing);
      const expected = messages.find(({ created_at }) => created_at >= timeOf(at))?.seq ?? null;
      expect(await load.firstSince("r", timeOf(at))).toBe(expected);
      expect(asked()).toBeLessThanOrEqual(Math.ceil(Math.log2(times.length + 1)) + 1);
    }),
  );
});
