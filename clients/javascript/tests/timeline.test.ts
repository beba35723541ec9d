import fc from "fast-check";
import { expect, test } from "vitest";
import { Timeline } from "../src/timeline.ts";
import type { Message } from "../src/types.ts";

const SIZE = 80;

function message(seq: number, version: number, state: Message["state"] = "complete"): Message {
  return { id: `m${seq}`, seq, content: `${seq} v${version}`, state } as Message;
}

test("pages of history and changes, in any order, make the room as it is now", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 50, max: SIZE - 5 }), // with fewer, it loads a page by itself
      fc.array(fc.constantFrom("older", "change", "new", "older and change"), { maxLength: 30 }),
      fc.infiniteStream(fc.nat(99)),
      async (held, steps, numbers) => {
        const log = Array.from({ length: SIZE }, (_, at) => message(at + 1, 0));
        const next = () => numbers.next().value as number;
        const timeline = new Timeline({
          held: async () => ({ messages: log.slice(SIZE - held), hasOlder: held < SIZE }),
          unsent: () => [],
          streamed: () => undefined,
          history: async (before = log.length + 1, limit) => {
            const older = log.slice(Math.max(0, before - 1 - limit), before - 1);
            return { messages: older, has_more: (older[0]?.seq ?? 1) > 1 };
          },
        });
        await timeline.begin();
        for (const step of steps) {
          const loading = step === "older and change" ? timeline.loadOlder((next() % 15) + 1) : null;
          if (step === "older") await timeline.loadOlder((next() % 15) + 1);
          else if (step === "new") {
            const added = message(log.length + 1, 0);
            log.push(added);
            timeline.apply({ is: "message", data: added });
          } else {
            const at = next() % log.length;
            const changed = message(at + 1, next() + 1);
            log[at] = changed;
            timeline.apply({ is: "message", data: changed });
          }
          await loading;
        }
        await timeline.loadOlder(100);
        await null;
        while (timeline.state.hasOlder) await timeline.loadOlder(100);
        await null;
        expect(timeline.state.messages).toEqual(log);
      },
    ),
  );
});

test("an acknowledged message is shown once, whether its event or its answer comes first", async () => {
  const none = async () => ({ messages: [], has_more: false, hasOlder: false });
  const timeline = new Timeline({ held: none, history: none, unsent: () => [], streamed: () => undefined });
  await timeline.begin();
  timeline.acknowledged(message(1, 0));
  timeline.apply({ is: "message", data: message(1, 1) });
  timeline.acknowledged(message(1, 0));
  await null;
  expect(timeline.state.messages).toEqual([message(1, 1)]);
});

test("a streaming message grows in its place, and its final content stays", async () => {
  let text: string | undefined;
  const none = async () => ({ messages: [], has_more: false, hasOlder: false });
  const timeline = new Timeline({ held: none, history: none, unsent: () => [], streamed: () => text });
  await timeline.begin();
  timeline.apply({ is: "message", data: message(1, 0, "streaming") });
  text = "Buenos días";
  timeline.grow("m1");
  await null;
  expect(timeline.state.messages.map(({ content }) => content)).toEqual(["Buenos días"]);
  timeline.apply({ is: "message", data: message(1, 1, "complete") });
  timeline.grow("m1");
  await null;
  expect(timeline.state.messages).toEqual([message(1, 1, "complete")]);
});
