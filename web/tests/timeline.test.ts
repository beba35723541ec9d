/** What is held of a log, against a model that knows for each seq whether it is held, and in which state. */
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Message } from "../src/contract.gen.ts";
import {
  emptyAt,
  extended,
  find,
  type Segment,
  type Segments,
  segmentAt,
  tailOf,
  tailOnly,
  trimmed,
  withChanged,
  withPage,
} from "../src/timeline.ts";
import { message } from "./make.ts";

/** A log in which some entries are messages, what is held of it, and what should be. */
class Held {
  readonly log: (Message | null)[];
  cursor: number;
  segments: Segments;
  covered: Set<number>;

  constructor(kinds: readonly boolean[], cursor: number) {
    this.log = kinds.map((isMessage, at) => (isMessage ? message(at + 1) : null));
    this.cursor = Math.min(cursor, kinds.length);
    this.segments = emptyAt(this.cursor);
    this.covered = new Set();
  }

  between(from: number, to: number): Message[] {
    return this.log.slice(from - 1, Math.max(to, from - 1)).filter((one) => one !== null);
  }

  page(from: number, to: number): void {
    const page = { from, to, messages: this.between(from, to) };
    this.segments = withPage(this.segments, page);
    this.cover(from, to);
  }

  /** As `history` answers: `size` messages before a seq, and the entries among them. */
  pageBefore(seq: number, size: number): void {
    const messages = this.between(1, seq - 1);
    const first = messages.length > size ? messages.at(-size)?.seq : 1;
    this.page(first ?? 1, seq - 1);
  }

  pageAfter(seq: number, size: number): void {
    const messages = this.between(seq + 1, this.cursor);
    const last = messages.length > size ? messages[size - 1]?.seq : this.cursor;
    this.page(seq + 1, last ?? this.cursor);
  }

  arrive(count: number): void {
    const to = Math.min(this.cursor + count, this.log.length);
    if (to === this.cursor) return;
    this.segments = extended(this.segments, this.cursor + 1, to, this.between(this.cursor + 1, to));
    this.cover(this.cursor + 1, to);
    this.cursor = to;
  }

  change(seq: number): void {
    const one = this.log[seq - 1];
    if (one === null || one === undefined) return;
    const now = { ...one, content: `${one.content}!` };
    this.log[seq - 1] = now;
    const before = this.segments;
    this.segments = withChanged(before, now);
    if (!this.covered.has(seq)) expect(this.segments).toBe(before);
  }

  /** Take what a cut has left, whatever that is. */
  cut(segments: Segments): void {
    this.segments = segments;
    for (const seq of this.covered) if (segmentAt(segments, seq) === null) this.covered.delete(seq);
  }

  private cover(from: number, to: number): void {
    for (let seq = from; seq <= to; seq++) this.covered.add(seq);
  }

  check(): void {
    const { segments } = this;
    for (const [at, segment] of segments.entries()) {
      const next = segments[at + 1];
      // Disjoint, in order, and not touching: what touches is one segment.
      if (next !== undefined) expect(segment.to + 1).toBeLessThan(next.from);
      expect(segment.from).toBeLessThanOrEqual(segment.to + (at === segments.length - 1 ? 1 : 0));
      // All of the range, in order, once, in the newest state.
      expect(segment.messages).toEqual(this.between(segment.from, segment.to));
    }
    expect(tailOf(segments).to).toBe(this.cursor);
    const all = this.log.map((_, at) => at + 1);
    expect(all.filter((seq) => segmentAt(segments, seq) !== null)).toEqual(
      all.filter((seq) => this.covered.has(seq)),
    );
    expect(all.map((seq) => find(segments, seq))).toEqual(
      this.log.map((one, at) => (this.covered.has(at + 1) ? one : null)),
    );
  }
}

const seqs = fc.integer({ min: 1, max: 40 });
const logs = fc.array(
  fc.integer({ min: 0, max: 3 }).map((one) => one > 0),
  { minLength: 1, maxLength: 40 },
);
const steps = fc.array(
  fc.record({
    step: fc.constantFrom("range", "before", "after", "arrive", "change", "tail", "trim"),
    seq: seqs,
    size: fc.integer({ min: 1, max: 8 }),
  }),
  { maxLength: 40 },
);

function take(held: Held, { step, seq, size }: { step: string; seq: number; size: number }): void {
  const at = Math.min(seq, held.cursor);
  switch (step) {
    case "range":
      return held.page(at, Math.min(at + size, held.cursor));
    case "before":
      return held.pageBefore(at + 1, size);
    case "after":
      return held.pageAfter(at - 1, size);
    case "arrive":
      return held.arrive(size);
    case "change":
      return held.change(seq);
    case "tail":
      return held.cut(tailOnly(held.segments, size));
    case "trim":
      return held.cut(trimmed(held.segments, seq, size));
  }
}

test("after any pages, arrivals, changes and cuts: no gap, no repeat, and each message in its current state", () => {
  fc.assert(
    fc.property(logs, seqs, steps, (kinds, cursor, todo) => {
      const held = new Held(kinds, cursor);
      held.check();
      for (const one of todo) {
        take(held, one);
        held.check();
      }
    }),
    { numRuns: 150 },
  );
});

test("the order of pages does not matter", () => {
  const pages = fc.array(fc.tuple(seqs, seqs), { maxLength: 12 });
  fc.assert(
    fc.property(
      logs,
      pages.chain((some) => fc.tuple(fc.constant(some), fc.shuffledSubarray(some, { minLength: some.length }))),
      (kinds, [some, shuffled]) => {
        const [one, other] = [new Held(kinds, 40), new Held(kinds, 40)];
        const clip = (held: Held, [a, b]: [number, number]) =>
          held.page(Math.min(a, b, held.cursor), Math.min(Math.max(a, b), held.cursor));
        for (const page of some) clip(one, page);
        for (const page of shuffled) clip(other, page);
        expect(one.segments).toEqual(other.segments);
      },
    ),
    { numRuns: 100 },
  );
});

test("an older page does not change loaded messages", () => {
  const now = message(2, { content: "edited" });
  const held = withPage(emptyAt(3), { from: 1, to: 3, messages: [message(1), now, message(3)] });
  const page: Segment = { from: 1, to: 3, messages: [message(1), message(2), message(3)] };
  expect(find(withPage(held, page), 2)).toBe(now);
});

test("the kept tail has the newest messages, and all entries from the first of them", () => {
  fc.assert(
    fc.property(logs, fc.integer({ min: 1, max: 8 }), (kinds, keep) => {
      const held = new Held(kinds, 40);
      held.page(1, held.cursor);
      const [tail, ...others] = tailOnly(held.segments, keep);
      expect(others).toEqual([]);
      expect(tail?.messages).toEqual(held.between(1, held.cursor).slice(-keep));
      if (held.between(1, held.cursor).length <= keep) expect(tail?.from).toBe(1);
    }),
  );
});

test("a cut keeps the visible messages, with the configured number on both sides", () => {
  fc.assert(
    fc.property(logs, seqs, fc.integer({ min: 1, max: 8 }), (kinds, seq, keep) => {
      const held = new Held(kinds, 40);
      held.page(1, held.cursor);
      const around = Math.min(seq, held.cursor);
      const all = held.between(1, held.cursor);
      const cut = trimmed(held.segments, around, keep);
      expect(segmentAt(cut, around)).not.toBeNull();
      if (all.length <= 2 * keep) {
        expect(cut).toBe(held.segments);
        return;
      }
      const older = all.filter((one) => one.seq < around).slice(-keep);
      const newer = all.filter((one) => one.seq >= around).slice(0, keep);
      const kept = cut.flatMap((segment) => segment.messages);
      expect(kept).toEqual([...older, ...newer]);
      expect(tailOf(cut).to).toBe(held.cursor);
    }),
  );
});

test("a gap in the arriving log starts a new tail", () => {
  const held = extended(emptyAt(0), 1, 2, [message(1), message(2)]);
  const gap = extended(held, 10, 11, [message(10)]);
  expect(gap).toEqual([
    { from: 1, to: 2, messages: [message(1), message(2)] },
    { from: 10, to: 11, messages: [message(10)] },
  ]);
  expect(segmentAt(gap, 5)).toBeNull();
});
