/** The rows of the timeline: made from one segment of the log and the unsent messages. */

import type { Message } from "../contract.gen.ts";
import type { Note } from "../store.ts";
import { place, type Segment } from "../timeline.ts";
import type { Unsent } from "../unsent.ts";

/** Messages of one sender within this time are grouped under one name. */
const TOGETHER = 5 * 60_000;
/** A long group repeats the name at such seqs: counted by seq, it does not move when an older page arrives. */
const NAMED_EVERY = 16;

export type { Note };

export interface MessageRow {
  readonly kind: "message";
  readonly key: string;
  readonly message: Message;
  /** Whether it belongs to the group of the message above it. */
  readonly grouped: boolean;
  /** The unsent message, if it is not in the log. */
  readonly unsent: Unsent | null;
}

export type Row =
  | { readonly kind: "beginning"; readonly key: "beginning" }
  | { readonly kind: "day"; readonly key: string; readonly at: string }
  | { readonly kind: "new"; readonly key: "new" }
  | { readonly kind: "note"; readonly key: string; readonly note: Note }
  | MessageRow;

export interface RowsOf {
  readonly segment: Segment;
  readonly me: string;
  /** The "New messages" line goes above the first message of another user after this seq. null: no line. */
  readonly newAfter: number | null;
  /** In seq order */
  readonly notes?: readonly Note[];
  /** The room's unsent and refused messages; empty if the segment is not the tail. */
  readonly unsent: readonly Unsent[];
}

const BEGINNING: Row = { kind: "beginning", key: "beginning" };
const NEW: Row = { kind: "new", key: "new" };

/** Cached facts about a message, and its row, which stays the same object while the message does. */
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

/** The rows of a segment. One cheap pass, because it runs for every message that arrives. */
export function rowsOf({ segment, me, newAfter, notes = [], unsent }: RowsOf): readonly Row[] {
  const rows: Row[] = [];
  if (segment.from <= 1) rows.push(BEGINNING);
  let above: { sender: string; at: number } | null = null;
  let day = Number.NaN;
  let seeksNew = newAfter !== null;
  const putDay = (of: Message | Unsent) => {
    const facts = knownOf(of);
    if (facts.day === day) return;
    rows.push({ kind: "day", key: `day ${facts.day}`, at: of.created_at });
    day = facts.day;
    above = null;
  };
  const put = (of: Message | Unsent, sender: string, make: (grouped: boolean) => MessageRow) => {
    const facts = knownOf(of);
    putDay(of);
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
  let noted = notes.findIndex(({ seq }) => seq >= segment.from);
  const putNotes = (before: number) => {
    for (let note = notes[noted]; note !== undefined && note.seq < before; note = notes[++noted]) {
      rows.push({ kind: "note", key: `note ${note.seq}`, note });
      above = null;
    }
  };
  for (const message of segment.messages) {
    // A note has no time of its own: above the first message, it is of the same day.
    if (Number.isNaN(day)) putDay(message);
    putNotes(message.seq);
    if (seeksNew && message.seq > (newAfter ?? 0) && message.sender !== me) {
      putDay(message);
      rows.push(NEW);
      seeksNew = false;
      above = null;
    }
    put(message, message.sender, (grouped) => ({
      kind: "message",
      key: keyOf(message),
      message,
      grouped: grouped && message.reply_to === null && message.seq % NAMED_EVERY !== 0,
      unsent: null,
    }));
  }
  putNotes(segment.to + 1);
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

/** The key of a message, the same before and after it is sent. */
function keyOf(message: Message): string {
  return message.client_id === null ? message.id : `sent ${message.client_id}`;
}

/** Whether an unsent message has already arrived as an event; the outbox is updated a moment later. */
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
    data: null,
    state: "complete",
  };
}

/** The index of the row with this message, or with the next one; -1 if there is none. */
export function rowOf(rows: readonly Row[], seq: number): number {
  return rows.findIndex((row) => row.kind === "message" && row.unsent === null && row.message.seq >= seq);
}

/** The number of messages of other users after a seq. */
export function countAfter(segment: Segment, seq: number, me: string): number {
  let count = 0;
  for (let at = place(segment.messages, seq + 1); at < segment.messages.length; at++)
    if (segment.messages[at]?.sender !== me) count++;
  return count;
}

/**
 * One step from the shown rows to the next ones that keeps the scroll position. A virtual list can keep it while rows
 * change at one end; if both ends change, the beginning changes first.
 */
export interface Step {
  readonly rows: readonly Row[];
  /** Rows were added or removed at the beginning. */
  readonly shift: boolean;
  /** No shown row is left, so the list is a new one. */
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

/** The indexes of the first message in both; of an unsent one, by its key. */
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

/** The seq of the first message at or after a row; null: there is none. */
export function seqFrom(rows: readonly Row[], index: number): number | null {
  for (let at = Math.max(0, index); at < rows.length; at++) {
    const row = rows[at];
    if (row?.kind === "message" && row.unsent === null) return row.message.seq;
  }
  return null;
}

/** The seq of the last message before a row; 0: there is none. */
export function seqBefore(rows: readonly Row[], index: number): number {
  for (let at = Math.min(index, rows.length) - 1; at >= 0; at--) {
    const row = rows[at];
    if (row?.kind === "message" && row.unsent === null) return row.message.seq;
  }
  return 0;
}

export function indexOf(rows: readonly Row[], key: string | null): number | null {
  if (key === null) return null;
  const index = rows.findIndex((row) => row.key === key);
  return index < 0 ? null : index;
}

/** The index of the last message; -1: there is none. */
export function lastMessage(rows: readonly Row[]): number {
  return rows.findLastIndex((row) => row.kind === "message");
}
