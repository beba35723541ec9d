/**
 * Sends messages in order and each once, across lost connections and reloads.
 *
 * A message is in IndexedDB before it is sent, and until it is there with its room. After a lost answer, nobody here
 * knows whether it took effect: it is sent again with the same `client_id`, and the server answers with the message
 * that it has. Only one message is in flight, so none overtakes another that has to wait. Of several tabs, one sends.
 */
import type { Message, SendMessage } from "./contract.gen.ts";
import { Refused, randomId } from "./session.ts";

export interface Unsent {
  readonly client_id: string;
  readonly room_id: string;
  readonly content: string;
  readonly reply_to: string | null;
  /** ISO 8601, UTC, by this device's clock */
  readonly created_at: string;
  /** Why the server refused it; null: it waits. */
  readonly refused: string | null;
}

/** The stored outbox, in the order in which messages were added. */
export interface OutboxStore {
  all(): Promise<Unsent[]>;
  add(unsent: Unsent): Promise<void>;
  /** Replace the message with this `client_id`, if it is still there; its position stays. */
  update(unsent: Unsent): Promise<void>;
  remove(client_id: string): Promise<void>;
}

export interface OutboxOptions {
  readonly store: OutboxStore;
  /** Request an action. Raises `Refused`. */
  send(request: SendMessage & { room_id: string }): Promise<Message>;
  /** Whether the message has already arrived as an event. */
  has(message: Message): boolean;
  /** Store the rooms as they are; returns when that is done. */
  keep(): Promise<void>;
  /** Whether there is a connection. */
  ready(): boolean;
  /** Unsent and refused messages, in order. */
  changed(unsent: readonly Unsent[]): void;
  /** Run the work while no other tab does. */
  alone<T>(work: () => Promise<T>): Promise<T>;
  /** Inform the other tabs that the stored outbox has changed. */
  tell(): void;
  /** Call after a delay (ms). */
  later(work: () => void, after: number): void;
}

const FIRST_WAIT = 500;
const LONGEST_WAIT = 30_000;

export class Outbox {
  private readonly options: OutboxOptions;
  private held: readonly Unsent[] = [];
  /** Messages in the store that need not be sent again: their events are on the way. */
  private readonly acknowledged = new Set<string>();
  /** Messages in the store that are in the room: not shown any more. */
  private readonly leaving = new Set<string>();
  /** How often something was shown. */
  private shown = 0;
  private flushing = false;
  private again = false;
  private stopped = false;
  /** The server asked to wait until then: nothing is sent earlier, whatever calls `wake`. */
  private limited = false;
  private wait = FIRST_WAIT;

  constructor(options: OutboxOptions) {
    this.options = options;
  }

  stop(): void {
    this.stopped = true;
  }

  /** Read the stored outbox, at the start and when another tab has changed it. */
  async load(): Promise<void> {
    let shown: number;
    let kept: Unsent[];
    // If this tab has changed the outbox meanwhile, what was read is outdated and would bring back deleted messages.
    do {
      ({ shown } = this);
      kept = await this.options.store.all();
    } while (shown !== this.shown && !this.stopped);
    this.show(kept.filter(({ client_id }) => !this.leaving.has(client_id)));
  }

  /** Store a message. It is stored when this returns, and sent as soon as there is a connection. */
  async send(room_id: string, content: string, reply_to: string | null = null): Promise<Unsent> {
    const unsent: Unsent = {
      client_id: randomId(),
      room_id,
      content,
      reply_to,
      created_at: new Date().toISOString(),
      refused: null,
    };
    await this.options.store.add(unsent);
    this.show([...this.held, unsent]);
    this.options.tell();
    this.wake();
    return unsent;
  }

  /** Whether this message is unsent or refused. */
  holds(client_id: string): boolean {
    return this.held.some((unsent) => unsent.client_id === client_id);
  }

  /** The message is in the room. It stays in the store until the room is stored: an offline reload shows it. */
  async arrived(client_id: string): Promise<void> {
    if (!this.holds(client_id)) return;
    this.leaving.add(client_id);
    this.show(this.held.filter((unsent) => unsent.client_id !== client_id));
    await this.options.keep();
    await this.remove(client_id);
    this.leaving.delete(client_id);
  }

  /** Delete a refused message. */
  async discard(client_id: string): Promise<void> {
    this.show(this.held.filter((unsent) => unsent.client_id !== client_id));
    await this.remove(client_id);
  }

  private async remove(client_id: string): Promise<void> {
    // If the page is ending, the message stays: the next one sends it again, and gets the same answer.
    if (this.stopped) return;
    await this.options.store.remove(client_id);
    this.acknowledged.delete(client_id);
    if (!this.stopped) this.options.tell();
  }

  /** Send a refused message again. */
  async retry(client_id: string): Promise<void> {
    const unsent = this.held.find((one) => one.client_id === client_id);
    if (unsent === undefined) return;
    await this.replace(unsent, null);
    this.wake();
  }

  /** There is a new connection or a new message: try to send. */
  wake(): void {
    if (this.stopped || this.limited || !this.options.ready()) return;
    if (this.flushing) {
      this.again = true;
      return;
    }
    this.flushing = true;
    this.options
      .alone(() => this.flush())
      .finally(() => {
        this.flushing = false;
        if (this.again) {
          this.again = false;
          this.wake();
        }
      });
  }

  private async flush(): Promise<void> {
    while (!this.stopped && this.options.ready()) {
      const next = (await this.options.store.all()).find(
        ({ refused, client_id }) =>
          refused === null && !this.acknowledged.has(client_id) && !this.leaving.has(client_id),
      );
      if (next === undefined) return;
      try {
        const sent = await this.options.send({
          room_id: next.room_id,
          content: next.content,
          client_id: next.client_id,
          ...(next.reply_to === null ? {} : { reply_to: next.reply_to }),
        });
        this.wait = FIRST_WAIT;
        // It is shown as waiting until its event has arrived, so that it never disappears in between.
        if (this.options.has(sent)) await this.arrived(next.client_id);
        else this.acknowledged.add(next.client_id);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        if (waits(error)) {
          this.rest(error.retryAfter);
          return;
        }
        await this.replace(next, error.message);
      }
    }
  }

  private rest(named: number | null): void {
    if (named !== null) this.limited = true;
    this.options.later(() => {
      if (named !== null) this.limited = false;
      this.wake();
    }, named ?? this.wait);
    this.wait = Math.min(LONGEST_WAIT, this.wait * 2);
  }

  private async replace(unsent: Unsent, refused: string | null): Promise<void> {
    const next = { ...unsent, refused };
    await this.options.store.update(next);
    this.show(this.held.map((one) => (one.client_id === unsent.client_id ? next : one)));
    this.options.tell();
  }

  private show(unsent: readonly Unsent[]): void {
    this.held = unsent;
    this.shown++;
    this.options.changed(unsent);
  }
}

/** Whether a retry may succeed: no answer, a retryable error, or one about the session and not the message. */
function waits(error: Refused): boolean {
  return (
    error.retryable ||
    error.code === null ||
    error.code === "unauthenticated" ||
    error.code === "token_expired" ||
    error.code === "token_revoked"
  );
}
