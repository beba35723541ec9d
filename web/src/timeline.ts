import type { Message } from "./contract.gen.ts";

/** All messages of a room with `from` ≤ seq ≤ `to`, in seq order. Empty with `from` = `to` + 1. */
export interface Segment {
  readonly from: number;
  readonly to: number;
  readonly messages: readonly Message[];
}

/**
 * The held parts of a room's log: segments in order, which neither overlap nor touch. The last is the tail: it ends at
 * the cursor, and arriving messages are appended to it. The others are pages of history, loaded by a jump.
 */
export type Segments = readonly Segment[];

/** An empty tail at a cursor. */
export function emptyAt(cursor: number): Segments {
  return [{ from: cursor + 1, to: cursor, messages: [] }];
}

export function tailOf(segments: Segments): Segment {
  const tail = segments.at(-1);
  if (tail === undefined) throw new Error("a room has a tail");
  return tail;
}

/** The segment that contains a seq, if any. */
export function segmentAt(segments: Segments, seq: number): Segment | null {
  return segments.find((segment) => segment.from <= seq && seq <= segment.to) ?? null;
}

export function find(segments: Segments, seq: number): Message | null {
  const segment = segmentAt(segments, seq);
  if (segment === null) return null;
  const at = place(segment.messages, seq);
  const message = segment.messages[at];
  return message?.seq === seq ? message : null;
}

/** Search by id, from the newest message backwards: for messages that are likely to be new. */
export function findById(segments: Segments, id: string): Message | null {
  for (const { messages } of segments.toReversed()) {
    const message = messages.findLast((one) => one.id === id);
    if (message !== undefined) return message;
  }
  return null;
}

/** The first index whose message has this seq or a greater one. */
export function place(messages: readonly Message[], seq: number): number {
  let low = 0;
  let high = messages.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((messages[middle] as Message).seq < seq) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Append entries up to `to` to the tail. After a gap (the log was reset) a new tail starts. */
export function extended(segments: Segments, first: number, to: number, messages: readonly Message[]): Segments {
  const tail = tailOf(segments);
  const others = segments.slice(0, -1);
  if (first === tail.to + 1)
    return [
      ...others,
      { from: tail.from, to, messages: messages.length === 0 ? tail.messages : [...tail.messages, ...messages] },
    ];
  const before = tail.messages.length === 0 ? others : segments;
  return [...before, { from: first, to, messages }];
}

/** Add a page of history, and join it with the segments it touches. Held messages stay: events keep them current. */
export function withPage(segments: Segments, page: Segment): Segments {
  if (page.to < page.from) return segments;
  let { from, to, messages } = page;
  const before: Segment[] = [];
  const after: Segment[] = [];
  for (const segment of segments) {
    if (segment.to + 1 < from) before.push(segment);
    else if (segment.from > to + 1) after.push(segment);
    else {
      messages = merged(segment.messages, messages);
      from = Math.min(from, segment.from);
      to = Math.max(to, segment.to);
    }
  }
  return [...before, { from, to, messages }, ...after];
}

/** Both in seq order; a message in both is taken from `held`. */
function merged(held: readonly Message[], page: readonly Message[]): readonly Message[] {
  const first = held[0];
  const last = held.at(-1);
  if (first === undefined || last === undefined) return page;
  const seqs = new Set(held.map((message) => message.seq));
  const fresh = page.filter((message) => !seqs.has(message.seq));
  if (fresh.length === 0) return held;
  const older = fresh.filter((message) => message.seq < first.seq);
  const newer = fresh.filter((message) => message.seq > last.seq);
  if (older.length + newer.length === fresh.length) return [...older, ...held, ...newer];
  return [...held, ...fresh].sort((one, other) => one.seq - other.seq);
}

/** Replace a message; the same segments if it is not held. */
export function withChanged(segments: Segments, message: Message): Segments {
  if (find(segments, message.seq) === null) return segments;
  return segments.map((segment) =>
    segment.from <= message.seq && message.seq <= segment.to
      ? { ...segment, messages: segment.messages.map((one) => (one.seq === message.seq ? message : one)) }
      : segment,
  );
}

/** Only the newest `keep` messages of the tail. */
export function tailOnly(segments: Segments, keep: number): Segments {
  const tail = tailOf(segments);
  if (segments.length === 1 && tail.messages.length <= keep) return segments;
  const messages = tail.messages.slice(-keep);
  const cut = messages.length < tail.messages.length;
  return [{ from: cut ? (messages[0]?.seq ?? tail.to + 1) : tail.from, to: tail.to, messages }];
}

/**
 * Cut a long segment to about `keep` messages on either side of a seq; the others can be loaded again. If that
 * cuts the end of the tail, an empty tail stays at the cursor.
 */
export function trimmed(segments: Segments, around: number, keep: number): Segments {
  const segment = segmentAt(segments, around);
  if (segment === null || segment.messages.length <= 2 * keep) return segments;
  const middle = place(segment.messages, around);
  const begin = Math.max(0, middle - keep);
  const end = Math.min(segment.messages.length, middle + keep);
  const messages = segment.messages.slice(begin, end);
  const from = begin === 0 ? segment.from : (messages[0]?.seq ?? segment.from);
  const atEnd = end === segment.messages.length;
  const to = atEnd ? segment.to : (messages.at(-1)?.seq ?? segment.to);
  const cut = { from, to, messages };
  const isTail = segment === tailOf(segments);
  const replaced = segments.map((one) => (one === segment ? cut : one));
  return isTail && !atEnd ? [...replaced, ...emptyAt(segment.to)] : replaced;
}
