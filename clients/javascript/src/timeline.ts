/** A live list of a room's messages, for a user interface. */
import type { History } from "./contract.gen.ts";
import type { Kept } from "./log.ts";
import type { Unsent } from "./outbox.ts";
import type { Message } from "./types.ts";

export interface TimelineState {
  /** In seq order, as they are now; a streaming message grows. */
  readonly messages: readonly Message[];
  /** Own messages that are not in the room yet, and refused ones. They belong below the others. */
  readonly unsent: readonly Unsent[];
  /** Whether the log has messages before the first one. */
  readonly hasOlder: boolean;
}

export interface TimelineOptions {
  /** The newest messages that this device holds, and whether there are more before them. */
  held(): Promise<{ messages: readonly Message[]; hasOlder: boolean }>;
  /** The text so far of a message that is being written. */
  streamed(message_id: string): string | undefined;
  unsent(): readonly Unsent[];
  history(before: number | undefined, limit: number): Promise<History>;
}

const PAGE = 50;

export class Timeline {
  private readonly options: TimelineOptions;
  private readonly bySeq = new Map<number, Message>();
  /** Changes of messages that are not shown, since the page that is being loaded was asked for. */
  private readonly late = new Map<number, Message>();
  private readonly listeners = new Set<() => void>();
  private current: TimelineState = { messages: [], unsent: [], hasOlder: true };
  private first = Number.POSITIVE_INFINITY;
  private hasOlder = true;
  private loading: Promise<void> | null = null;
  private epoch = 0;
  private isScheduled = false;

  constructor(options: TimelineOptions) {
    this.options = options;
  }

  /** Immutable: a change makes another object. */
  get state(): TimelineState {
    return this.current;
  }

  /** Call `changed` after changes; those of one moment come together. Returns a function that stops it. */
  subscribe(changed: () => void): () => void {
    this.listeners.add(changed);
    return () => this.listeners.delete(changed);
  }

  /** Load the messages before the first one. Rejects with a `TidingsError`. */
  loadOlder(limit = PAGE): Promise<void> {
    this.loading ??= this.load(limit).finally(() => {
      this.loading = null;
      this.late.clear();
    });
    return this.loading;
  }

  /** Show what this device holds. Needs no connection. */
  async begin(): Promise<void> {
    const { epoch } = this;
    const { messages, hasOlder } = await this.options.held();
    if (epoch !== this.epoch) return;
    for (const message of messages) this.addOlder(message);
    this.hasOlder = hasOlder;
    this.change();
    if (messages.length < PAGE) void this.loadOlder().catch(() => undefined); // without a connection: when asked again
  }

  /** The log was reset: begin again. */
  async restart(): Promise<void> {
    this.epoch++;
    this.bySeq.clear();
    this.first = Number.POSITIVE_INFINITY;
    await this.begin();
  }

  /** A row of the log has been stored. */
  apply(row: Kept): void {
    if (row.is !== "message") return;
    const message = row.data;
    // A change of a message that is not loaded: it comes with its page.
    if (this.bySeq.size > 0 && message.seq < this.first && this.hasOlder) {
      if (this.loading !== null) this.late.set(message.seq, message);
      return;
    }
    this.set(message);
    this.change();
  }

  /** An own message was acknowledged: show it before its event comes. */
  acknowledged(message: Message): void {
    if (!this.bySeq.has(message.seq)) this.apply({ is: "message", data: message });
  }

  /** A streaming message has grown. */
  grow(message_id: string): void {
    for (const message of this.bySeq.values())
      if (message.id === message_id) {
        this.set(message);
        this.change();
        return;
      }
  }

  /** Keep only so many of the newest messages; older ones can be loaded again. */
  trim(keep: number): void {
    const seqs = [...this.bySeq.keys()].sort((one, other) => one - other);
    const gone = seqs.slice(0, Math.max(0, seqs.length - keep));
    if (gone.length === 0) return;
    for (const seq of gone) this.bySeq.delete(seq);
    this.first = seqs[gone.length] ?? Number.POSITIVE_INFINITY;
    this.hasOlder = true;
    this.change();
  }

  /** The outbox or the list has changed. */
  change(): void {
    if (this.isScheduled) return;
    this.isScheduled = true;
    queueMicrotask(() => {
      this.isScheduled = false;
      const messages = [...this.bySeq.values()].sort((one, other) => one.seq - other.seq);
      this.current = { messages, unsent: this.options.unsent(), hasOlder: this.hasOlder };
      for (const listener of this.listeners) listener();
    });
  }

  private async load(limit: number): Promise<void> {
    if (!this.hasOlder) return;
    const { epoch } = this;
    const { messages, has_more } = await this.options.history(this.bySeq.size > 0 ? this.first : undefined, limit);
    if (epoch !== this.epoch) return;
    for (const message of messages) this.addOlder(message);
    this.hasOlder = has_more;
    this.change();
  }

  /** A page may be older than an event that came before it: what is held stays. */
  private addOlder(message: Message): void {
    if (!this.bySeq.has(message.seq)) this.set(this.late.get(message.seq) ?? message);
  }

  private set(message: Message): void {
    const text = message.state === "streaming" ? this.options.streamed(message.id) : undefined;
    this.bySeq.set(message.seq, text === undefined ? message : { ...message, content: text });
    this.first = Math.min(this.first, message.seq);
  }
}
