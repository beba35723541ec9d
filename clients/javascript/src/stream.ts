/** Messages that are written while they are read. Offsets count code points, not UTF-16 units. */
import { isClosed, isTemporary, TidingsError } from "./errors.ts";
import { lengthOf, unitsOf } from "./text.ts";
import type { ActionName, Data, Message, Request, Response } from "./types.ts";

export interface StreamOptions {
  open(): Promise<Message>;
  ask<A extends ActionName>(action: A, request: Request<A>): Promise<Response<A>>;
  /** Resolves when there is a connection; rejects when there will be none. */
  online(): Promise<void>;
}

/** Texts that are written within this time (ms) are sent together. */
const JOIN = 40;
const MAX_TEXT = 16_384;
const FIRST_WAIT = 250;
const LONGEST_WAIT = 5000;

/**
 * The author's side of a streaming message. What is written is kept until the server has stored it, and sent again
 * from where the server asks after a lost connection.
 */
export class MessageStream {
  /** The message as it was opened. */
  readonly message: Message;
  private readonly options: StreamOptions;
  /** Text from `begin` on; what is before is stored by the server. */
  private text: string;
  private begin: number;
  /** The server has the text up to here, perhaps not durably. */
  private sentTo: number;
  private isStopped = false;
  private failure: unknown = null;
  private sending: Promise<void> | null = null;
  private isFinished = false;
  private wait = FIRST_WAIT;

  constructor(message: Message, options: StreamOptions) {
    this.message = message;
    this.options = options;
    this.text = message.content;
    this.begin = 0;
    this.sentTo = lengthOf(message.content);
  }

  static async open(options: StreamOptions): Promise<MessageStream> {
    return new MessageStream(await options.open(), options);
  }

  /** Whether a reader asked the author to stop. Nothing enforces it: call `finish` soon. */
  get stopped(): boolean {
    return this.isStopped;
  }

  /** Add text; it is sent in the background. Rejects if the message cannot be written any more. */
  async write(text: string): Promise<void> {
    if (this.isFinished) throw isClosed();
    this.check();
    this.text += text;
    this.sending ??= this.send(JOIN);
    // Do not run further ahead of the network than one packet.
    if (this.unsent > MAX_TEXT) await this.flush();
  }

  /** Wait until the server has all that was written. */
  async flush(): Promise<void> {
    while (this.sending !== null || (this.unsent > 0 && this.failure === null)) {
      this.sending ??= this.send(0);
      await this.sending;
    }
    this.check();
  }

  /** Finish the message, durably. `content` replaces what was written; `data` is attached to it. */
  async finish({ content, data }: { content?: string; data?: Data } = {}): Promise<Message> {
    this.isFinished = true;
    if (content === undefined) await this.flush();
    for (;;) {
      try {
        return await this.options.ask("finish", {
          message_id: this.message.id,
          ...(content === undefined ? { offset: this.end } : { content }),
          ...(data === undefined ? {} : { data }),
        });
      } catch (error) {
        if (!(await this.recovered(error))) throw error;
        if (content === undefined) await this.flush();
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.isFinished) await this.finish();
  }

  private get end(): number {
    return this.begin + lengthOf(this.text);
  }

  private get unsent(): number {
    return this.end - this.sentTo;
  }

  private check(): void {
    if (this.failure !== null) throw this.failure;
  }

  private async send(after: number): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, after));
    while (this.unsent > 0) {
      const from = unitsOf(this.text, this.sentTo - this.begin);
      const rest = this.text.slice(from);
      const text = rest.slice(0, unitsOf(rest, MAX_TEXT));
      try {
        const answer = await this.options.ask("append", { message_id: this.message.id, offset: this.sentTo, text });
        this.sentTo = answer.offset;
        this.isStopped ||= answer.stop;
        this.forget(answer.stored);
        this.wait = FIRST_WAIT;
      } catch (error) {
        // Nobody may be waiting for this: what ends it is kept for the next `write`, `flush` or `finish`.
        this.failure = await this.recovered(error).then(
          (goesOn) => (goesOn ? null : error),
          (ended: unknown) => ended,
        );
        if (this.failure !== null) break;
      }
    }
    this.sending = null; // in the same turn as the last look at what is unsent
  }

  /** Whether to go on after an error, from where the server says or from what it has stored. */
  private async recovered(error: unknown): Promise<boolean> {
    const offset = error instanceof TidingsError && error.code === "conflict" ? error.details.offset : undefined;
    if (typeof offset === "number") {
      if (offset < this.begin || offset > this.end) return false;
      this.sentTo = offset;
      return true;
    }
    if (!isTemporary(error)) return false;
    this.sentTo = Math.min(this.sentTo, this.end);
    await new Promise((resolve) =>
      setTimeout(resolve, error.retryAfter === null ? this.wait : error.retryAfter * 1000),
    );
    this.wait = Math.min(LONGEST_WAIT, this.wait * 2);
    await this.options.online();
    return true;
  }

  private forget(stored: number): void {
    const points = Math.min(stored, this.sentTo) - this.begin;
    if (points <= 0) return;
    this.text = this.text.slice(unitsOf(this.text, points));
    this.begin += points;
  }
}
