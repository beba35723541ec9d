import fc from "fast-check";
import { expect, test } from "vitest";
import { type Entry, KEPT, Log } from "../src/log.ts";
import { MemoryStore } from "../src/store.ts";
import type { Message } from "../src/types.ts";

function message(seq: number, content: string): Message {
  return { id: `m${seq}`, room_id: "r", seq, content, client_id: null } as Message;
}

/** A room's log: messages, and edits of earlier ones. */
const logs = fc.array(fc.option(fc.nat(50), { freq: 2 }), { minLength: 1, maxLength: 20 }).map((edits) => {
  const entries: [string, Entry][] = [];
  const seqs: number[] = [];
  edits.forEach((edit, at) => {
    const seq = at + 1;
    const target = edit === null ? undefined : seqs[edit % Math.max(1, seqs.length)];
    if (target === undefined) {
      seqs.push(seq);
      entries.push(["message", message(seq, `first ${seq}`)]);
    } else {
      const changed = { room_id: "r", seq, message: message(target, `changed by ${seq}`) };
      entries.push(["message_edited", changed]);
    }
  });
  return entries;
});

function rowsOf(entries: readonly [string, Entry][], begin: number): Message[] {
  const rows = new Map<number, Message>();
  for (const [name, data] of entries.slice(begin)) {
    const row = name === "message" ? (data as Message) : (data as unknown as { message: Message }).message;
    if (row.seq > begin) rows.set(row.seq, row);
  }
  return [...rows.values()].sort((one, other) => one.seq - other.seq);
}

test("whatever is repeated, and wherever it is restarted, each entry is new once and rows are as they are now", async () => {
  await fc.assert(
    fc.asyncProperty(
      logs,
      fc.nat(5),
      fc.array(fc.record({ back: fc.nat(8), count: fc.nat(8), restart: fc.boolean() }), { maxLength: 8 }),
      async (entries, from, replays) => {
        const begin = Math.min(from, entries.length - 1);
        const store = new MemoryStore();
        let log = new Log(store);
        const fresh: number[] = [];
        const receive = async (first: number, end: number) => {
          const arrived = entries.slice(first, end);
          for (const { seq } of await log.receive(arrived)) fresh.push(seq);
        };
        await receive(begin, begin + 1);
        for (const { back, count, restart } of replays) {
          if (restart) {
            log = new Log(store);
            await log.load();
          }
          const next = log.cursor("r") as number;
          await receive(Math.max(begin, next - back), next + count);
        }
        await receive(log.cursor("r") as number, entries.length);
        expect(fresh).toEqual(entries.slice(begin).map(([, { seq }]) => seq));
        expect((await log.after("r", 0, 100)).map(({ data }) => data)).toEqual(rowsOf(entries, begin));
        expect(log.floor("r")).toBe(begin);
      },
    ),
  );
});

test("another tab that is behind does not bring back an older state of a message", async () => {
  const store = new MemoryStore();
  const tabs = [new Log(store), new Log(store)] as const;
  const first: [string, Entry] = ["message", message(1, "first")];
  const edit: [string, Entry] = ["message_edited", { room_id: "r", seq: 2, message: message(1, "edited") } as Entry];
  await tabs[0].receive([first, edit]);
  expect([...(await tabs[1].receive([first]))].length, "it shows it").toBe(1);
  expect((await tabs[1].after("r", 0, 9)).map(({ data }) => data)).toEqual([message(1, "edited")]);
});

test("old rows go, but not those that a consumer has not got", async () => {
  const log = new Log(new MemoryStore());
  await log.receive([["message", message(1, "")]]);
  await log.move("r", "slow", 300);
  await log.receive(Array.from({ length: KEPT + 600 }, (_, at) => ["message", message(at + 2, "")] as const));
  await log.trim();
  expect(log.floor("r")).toBe(300);
  expect((await log.after("r", 0, 1))[0]?.data.seq).toBe(301);
});
