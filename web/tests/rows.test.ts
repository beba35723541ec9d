import fc from "fast-check";
import { expect, test } from "vitest";
import type { Message } from "../src/contract.gen.ts";
import type { Segment } from "../src/timeline.ts";
import type { Unsent } from "../src/unsent.ts";
import { countAfter, type Row, rowOf, rowsOf, stepTo } from "../src/views/rows.ts";
import { message as made } from "./make.ts";

const NOON = new Date(2026, 4, 12, 12).getTime();
const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;

function message(seq: number, { at = NOON, ...more }: Partial<Message> & { at?: number } = {}): Message {
  return made(seq, { created_at: new Date(at).toISOString(), ...more });
}

function unsent(client_id: string, refused: string | null = null): Unsent {
  const created_at = new Date(NOON).toISOString();
  const sent = { client_id, room_id: "r", content: "waits", reply_to: null, thread: null, created_at, refused };
  return { ...sent, files: [], contentOf: async () => undefined };
}

function segmentOf(
  messages: readonly Message[],
  from = messages[0]?.seq ?? 1,
  to = messages.at(-1)?.seq ?? 0,
): Segment {
  return { from, to, messages };
}

function rows(messages: readonly Message[], more: Partial<Parameters<typeof rowsOf>[0]> = {}): readonly Row[] {
  return rowsOf({ segment: segmentOf(messages, 5), me: "me", newAfter: null, unsent: [], ...more });
}

/** Short: `day`, `new`, `1` for a message under its sender's name, `+2` for one that stands under the one above. */
function read(rows: readonly Row[]): string {
  return rows
    .map((row) =>
      row.kind === "message" ? `${row.grouped ? "+" : ""}${row.unsent?.client_id ?? row.message.seq}` : row.kind,
    )
    .join(" ");
}

test("messages of one sender within five minutes are grouped", () => {
  const shown = rows([
    message(5),
    message(6, { at: NOON + 4 * MINUTE }),
    message(7, { at: NOON + 6 * MINUTE }),
    message(8, { at: NOON + 6 * MINUTE, sender: "diego" }),
    message(9, { at: NOON + 6 * MINUTE }),
  ]);
  expect(read(shown)).toBe("day 5 +6 7 8 9");
});

test("a reply repeats its sender's name, because a quote is above it", () => {
  expect(read(rows([message(5), message(6, { reply_to: "m1" }), message(7)]))).toBe("day 5 6 +7");
});

test("each day begins with its line and the sender's name", () => {
  const midnight = new Date(2026, 4, 13).getTime();
  const shown = rows([
    message(5, { at: midnight - MINUTE }),
    message(6, { at: midnight }),
    message(7, { at: midnight + DAY }),
  ]);
  expect(read(shown)).toBe("day 5 day 6 day 7");
});

test("the line of new messages is above the first one of others, below the line of its day", () => {
  const log = [
    message(5),
    message(6, { sender: "me" }),
    message(7, { at: NOON + DAY }),
    message(8, { at: NOON + DAY }),
  ];
  expect(read(rows(log, { newAfter: 5 }))).toBe("day 5 6 day new 7 +8");
  expect(read(rows(log, { newAfter: 7 }))).toBe("day 5 6 day 7 new 8");
  expect(read(rows(log, { newAfter: 8 }))).toBe("day 5 6 day 7 +8");
});

test("in a long run of one sender the name is repeated, independent of the pages", () => {
  const log = Array.from({ length: 60 }, (_, at) => message(at + 5));
  const named = (from: number) =>
    rows(log.slice(from)).flatMap((row) => (row.kind === "message" && !row.grouped ? [row.message.seq] : []));
  expect(named(0)).toEqual([5, 16, 32, 48, 64]);
  expect(named(20)).toEqual([25, 32, 48, 64]);
});

test("changes of the room are shown between the messages, and end a group", () => {
  const note = (seq: number) => ({
    seq,
    username: "ana",
    change: "joined" as const,
    role: "member" as const,
    title: null,
  });
  const log = [message(5), message(7), message(8), message(10)];
  const shown = read(rows(log, { notes: [note(2), note(6), note(9), note(11)], segment: segmentOf(log, 5, 11) }));
  expect(shown).toBe("day 5 note 7 +8 note 10 note");
  // Above the first message they are of its day.
  const first = [message(3), message(4)];
  expect(read(rows(first, { notes: [note(1), note(2)], segment: segmentOf(first, 1, 4) }))).toMatch(
    /^beginning day note note 3 /,
  );
});

test("the beginning of the room is shown only if it is loaded", () => {
  expect(read(rows([message(5)], { segment: segmentOf([message(5)], 1) }))).toBe("beginning day 5");
  expect(read(rows([message(5)]))).toBe("day 5");
});

test("unsent messages are at the end, in order, and keep their key when their event arrives", () => {
  const log = [message(5)];
  const waiting = rows(log, { unsent: [unsent("a"), unsent("b", "muted")] });
  expect(read(waiting)).toBe("day 5 a +b");
  const back = message(6, { sender: "me", client_id: "a" });
  const sent = rows([...log, back], { unsent: [unsent("b", "muted")] });
  expect(read(sent)).toBe("day 5 6 +b");
  expect(sent.map((row) => row.key)).toEqual(waiting.map((row) => row.key));
});

test("a message whose event has arrived is shown once, although the outbox still has it", () => {
  const back = message(6, { sender: "me", client_id: "a" });
  expect(read(rows([message(5), back], { unsent: [unsent("a")] }))).toBe("day 5 6");
});

test("somebody else's message with the same client_id hides nothing of mine", () => {
  expect(read(rows([message(5, { client_id: "a" })], { unsent: [unsent("a")] }))).toBe("day 5 a");
});

test("a row is the same object as long as its message is the same", () => {
  const log = [message(5), message(6)];
  const before = rows(log);
  const after = rows([...log, message(7)]);
  expect(after[2]).toBe(before[2]);
  const edited = rows([log[0] as Message, { ...(log[1] as Message), content: "edited" }]);
  expect(edited[1]).toBe(before[1]);
  expect(edited[2]).not.toBe(before[2]);
});

test("a seq without a message leads to the next message", () => {
  const shown = rows([message(5), message(9)]);
  expect(shown[rowOf(shown, 6)]).toMatchObject({ message: { seq: 9 } });
  expect(rowOf(shown, 10)).toBe(-1);
});

test("own messages are not counted as new", () => {
  const segment = segmentOf([message(5), message(6, { sender: "me" }), message(7)]);
  expect(countAfter(segment, 5, "me")).toBe(1);
  expect(countAfter(segment, 4, "me")).toBe(2);
});

test("rows change at one end at a time: at the beginning first, and what stays keeps its place from the end", () => {
  const range = (from: number, to: number) =>
    Array.from({ length: Math.max(0, to - from) }, (_, at) =>
      message(from + at, { sender: at % 3 === 0 ? "ana" : "diego" }),
    );
  const bounds = fc.tuple(fc.integer({ min: 5, max: 60 }), fc.integer({ min: 1, max: 40 }));
  fc.assert(
    fc.property(bounds, bounds, ([from, length], [otherFrom, otherLength]) => {
      const shown = rows(range(from, from + length));
      const next = rows(range(otherFrom, otherFrom + otherLength));
      const first = stepTo(shown, next);
      const overlap = Math.max(from, otherFrom) < Math.min(from + length, otherFrom + otherLength);
      expect(first.anew).toBe(!overlap);
      if (first.more) {
        // Nothing has changed behind the first row that is in both.
        const kept = shown.length - (first.rows.length - first.rows.findIndex((row) => shown.includes(row)));
        expect(first.rows.slice(first.rows.length - (shown.length - kept))).toEqual(shown.slice(kept));
        const second = stepTo(first.rows, next);
        expect(second).toMatchObject({ shift: false, anew: false, more: false });
        expect(second.rows).toBe(next);
      } else expect(first.rows).toBe(next);
    }),
  );
});

test("a page in front while a message arrives is two steps", () => {
  const shown = rows([message(10), message(11)]);
  const next = rows([message(8), message(9), message(10), message(11), message(12)]);
  const first = stepTo(shown, next);
  expect(read(first.rows)).toBe("day 8 +9 10 +11");
  expect(first).toMatchObject({ shift: true, more: true });
});

test("the first unsent message of an empty room stays the same row while more are written, and when it is sent", () => {
  const [one, two] = [unsent("one"), unsent("two")];
  const sent = message(5, { sender: "me", client_id: "one" });
  const first = rows([], { unsent: [one] });
  const both = rows([], { unsent: [one, two] });
  const half = rows([sent], { unsent: [two] });
  const behind = rows([message(4), sent], { unsent: [two] });
  for (const [shown, next] of [
    [first, both],
    [both, half],
    [both, behind],
  ] as const)
    expect(stepTo(shown, next)).toMatchObject({ anew: false, more: false, rows: next });
  expect(stepTo(both, rows([message(4)])).anew).toBe(true);
});
