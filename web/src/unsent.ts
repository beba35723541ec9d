/** The messages that the views show as unsent: those of the library's outbox, and acknowledged ones until they arrive. */
import type { Client as LiveClient, Message, UnsentFile, Unsent as Waiting } from "@tidings/client";
import { messageOf } from "./text.ts";

/** A message that is not in its room yet, or was refused. */
export interface Unsent {
  readonly client_id: string;
  readonly room_id: string;
  readonly content: string;
  readonly reply_to: string | null;
  readonly thread: string | null;
  readonly files: readonly UnsentFile[];
  /** The content of a file, for this page to show. */
  contentOf(index: number): Promise<Blob | undefined>;
  /** ISO 8601, UTC, by this device's clock */
  readonly created_at: string;
  /** Why the server refused it; null: it waits. */
  readonly refused: string | null;
}

/** Whether a message is of a thread; of none: of the room itself. */
export function isIn(message: Pick<Unsent, "thread">, thread: string | undefined): boolean {
  return message.thread === (thread ?? null);
}

export interface UnsentOptions {
  readonly live: LiveClient;
  /** Whether the event of a message has arrived. */
  has(message: Message): boolean;
  changed(unsent: readonly Unsent[]): void;
  /** A refusal says until when the user is muted in a room. */
  muted(room_id: string, details: Readonly<Record<string, unknown>>): void;
}

export class UnsentMessages {
  private readonly options: UnsentOptions;
  /** Those of the library when it last told of a change. */
  private waiting: readonly Waiting[] = [];
  /** Messages that the server has, by client_id: without them, one would disappear between its answer and its event. */
  private readonly acknowledged = new Map<string, Unsent>();
  /** As they were shown before, so that the same one stays the same. */
  private readonly shown = new WeakMap<Waiting, Unsent>();

  constructor(options: UnsentOptions) {
    this.options = options;
    options.live.onUnsent(() => this.change());
    this.change();
  }

  get(client_id: string): Waiting | undefined {
    return this.waiting.find((one) => one.client_id === client_id);
  }

  /** The event of a message has arrived. */
  arrived(client_id: string): void {
    if (this.acknowledged.delete(client_id)) this.show();
  }

  private change(): void {
    const { unsent } = this.options.live;
    const still = new Set(unsent.map(({ client_id }) => client_id));
    for (const gone of this.waiting) if (!still.has(gone.client_id)) this.hold(gone);
    this.waiting = unsent;
    for (const { room, error } of unsent) if (error !== null) this.options.muted(idOf(room), error.details);
    this.show();
  }

  /** Show a message that has left the outbox until its event arrives, unless it was withdrawn. */
  private hold(gone: Waiting): void {
    const { client_id } = gone;
    this.acknowledged.set(client_id, this.viewOf(gone));
    gone.sent().then(
      (message) => {
        if (this.options.has(message)) this.arrived(client_id);
      },
      () => this.arrived(client_id),
    );
  }

  private show(): void {
    this.options.changed([...this.acknowledged.values(), ...this.waiting.map((one) => this.viewOf(one))]);
  }

  private viewOf(waiting: Waiting): Unsent {
    const known = this.shown.get(waiting);
    if (known !== undefined) return known;
    const { client_id, room, content, reply_to, thread, files, created_at, error } = waiting;
    const made = {
      client_id,
      room_id: idOf(room),
      content,
      reply_to,
      thread,
      files,
      contentOf: (index: number) => waiting.file(index),
      created_at,
      refused: error === null ? null : messageOf(error),
    };
    this.shown.set(waiting, made);
    return made;
  }
}

/** The page names rooms by their ids. */
function idOf(room: Waiting["room"]): string {
  return "room_id" in room ? room.room_id : "";
}
