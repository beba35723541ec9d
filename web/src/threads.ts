/** Threads: how events and answers change what the page has of them. */
import type { Message, MessageAppend, Thread } from "./contract.gen.ts";
import { place } from "./timeline.ts";

export interface HeldThread {
  readonly room_id: string;
  /** The `id` of the message that began it */
  readonly id: string;
  /** null: not known yet */
  readonly began: Message | null;
  /** How many replies it has, as far as is known */
  readonly count: number;
  readonly following: boolean;
  /** How many of them the user has read */
  readonly read: number;
  /** The newest replies, in order, without gaps; null: it was not opened. */
  readonly replies: readonly Message[] | null;
}

export type Threads = ReadonlyMap<string, HeldThread>;

/** Unread replies in a thread; 0 unless the user follows it. */
export function unreadIn(thread: HeldThread | undefined): number {
  return thread?.following === true ? Math.max(0, thread.count - thread.read) : 0;
}

/** Unread replies in all threads */
export function unreadInThreads(threads: Threads): number {
  let sum = 0;
  for (const thread of threads.values()) sum += unreadIn(thread);
  return sum;
}

/** A thread that is opened by its id: its replies are to be loaded. */
export function opened(threads: Threads, room_id: string, id: string): Threads {
  const held = threads.get(id) ?? { room_id, id, began: null, count: 0, following: false, read: 0, replies: null };
  return put(threads, { ...held, replies: held.replies ?? [] });
}

/** A thread as the server has it for the user. */
export function withThread(threads: Threads, { message, following, unread }: Thread): Threads {
  const { id, room_id, replies = 0 } = message;
  const held = threads.get(id);
  const count = Math.max(held?.count ?? 0, replies);
  const read = following ? Math.max(held?.following ? held.read : 0, replies - unread) : count;
  return put(threads, { room_id, id, began: message, count, following, read, replies: held?.replies ?? null });
}

/** A page of the replies, before those that are held, or the newest ones. */
export function withReplies(threads: Threads, id: string, page: readonly Message[], began: Message | null): Threads {
  const held = threads.get(id);
  if (held === undefined) return threads;
  let replies = held.replies ?? [];
  for (const message of page) replies = inserted(replies, message, false);
  const count = Math.max(held.count, began?.replies ?? 0, replies.at(-1)?.replies ?? 0);
  return put(threads, {
    ...held,
    began: began ?? held.began,
    count,
    replies: held.replies === null ? null : replies,
  });
}

/** A reply that has arrived. */
export function withReply(threads: Threads, message: Message, me: string): Threads {
  const held = threads.get(message.thread ?? "");
  if (held === undefined) return threads;
  const { replies: number = 0 } = message;
  const read = message.sender === me ? Math.max(held.read, number) : held.read;
  const replies = held.replies === null ? null : inserted(held.replies, message, true);
  return put(threads, { ...held, count: Math.max(held.count, number), read, replies });
}

/** A message that was changed: one that began a thread, or a reply. */
export function withChangedMessage(threads: Threads, message: Message): Threads {
  const began = threads.get(message.id);
  if (began !== undefined) return put(threads, { ...began, began: message });
  const held = threads.get(message.thread ?? "");
  const replies = held?.replies?.map((one) => (one.id === message.id ? message : one));
  return held === undefined || replies === undefined ? threads : put(threads, { ...held, replies });
}

/** Text of a reply that streams, by `append`, which makes the message with it. */
export function withPiece(
  threads: Threads,
  { message_id }: MessageAppend,
  append: (message: Message) => Message,
): Threads {
  for (const held of threads.values()) {
    const before = held.replies?.findLast(({ id }) => id === message_id);
    if (before === undefined) continue;
    const after = append(before);
    return after === before ? threads : withChangedMessage(threads, after);
  }
  return threads;
}

export function withoutRoom(threads: Threads, room_id: string): Threads {
  const kept = [...threads].filter(([, held]) => held.room_id !== room_id);
  return kept.length === threads.size ? threads : new Map(kept);
}

function put(threads: Threads, held: HeldThread): Threads {
  return new Map(threads).set(held.id, held);
}

/** `newer`: the message replaces one that is held. */
function inserted(replies: readonly Message[], message: Message, newer: boolean): readonly Message[] {
  const at = place(replies, message.seq);
  if (replies[at]?.id !== message.id) return [...replies.slice(0, at), message, ...replies.slice(at)];
  return newer ? replies.with(at, message) : replies;
}
