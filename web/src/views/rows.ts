/** What stands in the timeline, from top to bottom: made from one segment of the log and what waits to be sent. */
import type { Message } from "../contract.gen.ts";
import type { Unsent } from "../outbox.ts";
import { place, type Segment } from "../timeline.ts";

/** Messages of one sender within this time stand together under one name. */
const TOGETHER = 5 * 60_000;

export interface MessageRow {
  readonly kind: "message";
  readonly key: string;
  readonly message: Message;
  /** It stands under the message above it, of the same sender. */
  readonly grouped: boolean;
  /** What the message is as long as it is not in the log. */
  readonly unsent: Unsent | null;
}

export type Row =
  | { readonly kind: "beginning"; readonly key: "beginning" }
  | { readonly kind: "day"; readonly key: string; readonly at: string }
  | { readonly kind: "new"; readonly key: "new" }
  | MessageRow;

export interface RowsOf {
  readonly segment: Segment;
  readonly me: string;
  /** Where the line "new messages" goes: above the first one of others after this seq. null: nowhere. */
  readonly newAfter: number | null;
  /** What waits or was refused of this room; not given where the segment is not the tail. */
  readonly unsent: readonly Unsent[];
}

const BEGINNING: Row = { kind: "beginning", key: "beginning" };
const NEW: Row = { kind: "new", key: "new" };

/** What is worth knowing of a message again and again; and its row, the same as long as nothing in it changes. */
interface Known {
  readonly at: number;
  readonly day: number;
  alone?: MessageRow;
  grouped?: MessageRow;
}

const known = new WeakMap<Message | Unsent, Known>();

function knownOf(of: Message | Unsent): Known {
  const before = known.get(of);
  if (before !== undefined) return before;
  const date = new Date(of.created_at);
  const day = date.getFullYear() * 372 + date.getMonth() * 31 + date.getDate();
  const made = { at: date.getTime(), day };
  known.set(of, made);
  return made;
}

/** The rows of a segment. One cheap pass: it runs with every message that arrives. */
export function rowsOf({ segment, me, newAfter, unsent }: RowsOf): readonly Row[] {
  const rows: Row[] = [];
  if (segment.from <= 1) rows.push(BEGINNING);
  let above: { sender: string; at: number } | null = null;
  let day = Number.NaN;
  let seeksNew = newAfter !== null;
  const put = (of: Message | Unsent, sender: string, make: (grouped: boolean) => MessageRow) => {
    const facts = knownOf(of);
    if (facts.day !== day) {
      rows.push({ kind: "day", key: `day ${facts.day}`, at: of.created_at });
      day = facts.day;
      above = null;
    }
    const grouped: boolean = above !== null && above.sender === sender && facts.at - above.at < TOGETHER;
    if (grouped) {
      facts.grouped ??= make(true);
      rows.push(facts.grouped);
    } else {
      facts.alone ??= make(false);
      rows.push(facts.alone);
      above = { sender, at: facts.at };
    }
  };
  for (const message of segment.messages) {
    if (seeksNew && message.seq > (newAfter ?? 0) && message.sender !== me) {
      if (knownOf(message).day !== day) {
        rows.push({ kind: "day", key: `day ${knownOf(message).day}`, at: message.created_at });
        day = knownOf(message).day;
      }
      rows.push(NEW);
      seeksNew = false;
      above = null;
    }
    put(message, message.sender, (grouped) => ({
      kind: "message",
      key: keyOf(message),
      message,
      grouped: grouped && message.reply_to === null,
      unsent: null,
    }));
  }
  for (const waiting of unsent) {
    if (isHeld(segment, me, waiting)) continue;
    put(waiting, me, (grouped) => ({
      kind: "message",
      key: `sent ${waiting.client_id}`,
      message: messageOf(waiting, me),
      grouped: grouped && waiting.reply_to === null,
      unsent: waiting,
    }));
  }
  return rows;
}

/** The same while a message waits and when it has come back. */
function keyOf(message: Message): string {
  return message.client_id === null ? message.id : `sent ${message.client_id}`;
}

/** Whether what waits has come back already; the outbox hears of it a moment later. */
function isHeld(segment: Segment, me: string, { client_id }: Unsent): boolean {
  for (let at = segment.messages.length - 1; at >= Math.max(0, segment.messages.length - 200); at--) {
    const message = segment.messages[at];
    if (message?.sender === me && message.client_id === client_id) return true;
  }
  return false;
}

function messageOf(unsent: Unsent, me: string): Message {
  return {
    id: unsent.client_id,
    room_id: unsent.room_id,
    topic_name: null,
    seq: 0,
    sender: me,
    content: unsent.content,
    created_at: unsent.created_at,
    edited_at: null,
    deleted: false,
    client_id: unsent.client_id,
    reply_to: unsent.reply_to,
    reactions: {},
    mentions: [],
  };
}

/** The index of the row with this message, or with the next one after it; -1 if there is none. */
export function rowOf(rows: readonly Row[], seq: number): number {
  return rows.findIndex((row) => row.kind === "message" && row.unsent === null && row.message.seq >= seq);
}

/** How many messages of others came after a seq. */
export function countAfter(segment: Segment, seq: number, me: string): number {
  let count = 0;
  for (let at = place(segment.messages, seq + 1); at < segment.messages.length; at++)
    if (segment.messages[at]?.sender !== me) count++;
  return count;
}

/**
 * How rows that are shown become others without what is looked at moving. A virtual list keeps its place while rows
 * come or go at one end; so where both ends change, the beginning is first.
 */
export interface Step {
  readonly rows: readonly Row[];
  /** Rows have come or gone at the beginning. */
  readonly shift: boolean;
  /** Nothing of what was shown is left: it is another list. */
  readonly anew: boolean;
  /** There is a second step to `next`. */
  readonly more: boolean;
}

export function stepTo(shown: readonly Row[], next: readonly Row[]): Step {
  const anchor = anchorOf(shown, next);
  if (anchor === null) return { rows: next, shift: false, anew: shown.length > 0, more: false };
  const [before, after] = anchor;
  if (before === after) return { rows: next, shift: false, anew: false, more: false };
  if (shown.length - before === next.length - after) return { rows: next, shift: true, anew: false, more: false };
  return { rows: [...next.slice(0, after), ...shown.slice(before)], shift: true, anew: false, more: true };
}

/** The places of the first message that is in both. Where nothing but what waits is shown, that is known by its key. */
function anchorOf(shown: readonly Row[], next: readonly Row[]): readonly [number, number] | null {
  const first = Math.max(firstSeq(shown), firstSeq(next));
  const waits = firstSeq(shown) === 0;
  const before = waits ? shown.findIndex(({ kind }) => kind === "message") : rowOf(shown, first);
  const after = waits ? next.findIndex(({ key }) => key === shown[before]?.key) : rowOf(next, first);
  if (before < 0 || after < 0) return null;
  return shown[before]?.key === next[after]?.key ? [before, after] : null;
}

function firstSeq(rows: readonly Row[]): number {
  for (const row of rows) if (row.kind === "message" && row.unsent === null) return row.message.seq;
  return 0;
}
