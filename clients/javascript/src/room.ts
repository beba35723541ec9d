import type { Client } from "./client.ts";
import type { History, Room as RoomInfo } from "./contract.gen.ts";
import { TidingsError } from "./errors.ts";
import type { Kept } from "./log.ts";
import { type Draft, type FileDraft, type RoomRef, randomId, type Unsent } from "./outbox.ts";
import type { Presence } from "./presence.ts";
import type { MessageStream } from "./stream.ts";
import { Timeline } from "./timeline.ts";
import type { Data, EventMap, JsonValue, Member, Message, Published, Response } from "./types.ts";

export interface SendOptions {
  /** A message with the same one is sent once. Default: a random one. */
  readonly client_id?: string;
  /** The `id` of the message that this one answers */
  readonly reply_to?: string;
  /** The `id` of a message in whose thread this one is a reply */
  readonly thread?: string;
  readonly data?: Data;
  /** They are stored and sent with the message. The text may be "" then. */
  readonly files?: readonly FileDraft[];
}

export interface ConsumeOptions {
  /**
   * Consumers with different names each get every message. Of one name, one loop runs at a time, in any tab; another
   * one waits until it ends. Default: "default".
   */
  readonly consumer?: string;
}

type EventName<MyEvents> = keyof MyEvents extends never ? string : keyof MyEvents & string;
type Payload<MyEvents, Name> = Name extends keyof MyEvents ? MyEvents[Name] : JsonValue;

const PAGE = 100;

/** A room: a topic, a group or a conversation. */
// biome-ignore lint/complexity/noBannedTypes: no events of an application, which is the default
export class Room<MyEvents = {}> {
  readonly client: Client<MyEvents>;
  /** The room as the server last described it to this object; null: it was not asked. */
  readonly info: RoomInfo | null;
  private readonly given: Partial<Record<"room_id" | "topic_name" | "username", string | null>>;

  constructor(client: Client<MyEvents>, given: Room<MyEvents>["given"], info: RoomInfo | null) {
    this.client = client;
    this.given = given;
    this.info = info;
  }

  /** null: this device does not know it yet. */
  get room_id(): string | null {
    return this.client.roomIdOf(this.ref) ?? null;
  }

  /** What to show as its name. */
  get name(): string {
    const { topic_name, username, room_id } = this.given;
    return topic_name ?? this.info?.title ?? username ?? room_id ?? "";
  }

  /**
   * Send a message. It is stored before it is sent, also without a connection, and sent once. Resolves when the server
   * has it on disk; rejects with a `TidingsError` if it is refused. An interrupted program need not repeat it.
   */
  async send(content: string, options: SendOptions = {}): Promise<Message> {
    return (await this.client.outbox.add(this.ref, { content, ...options }, false)).sent();
  }

  /** As `send`, but resolves when the message is stored here. If it is refused, it stays until it is withdrawn. */
  enqueue(content: string, options: SendOptions = {}): Promise<Unsent> {
    return this.client.outbox.add(this.ref, { content, ...options }, true);
  }

  /**
   * Publish an event of the application, once; it is repeated while the program runs. Transient: only members who are
   * connected now get it, at most once.
   */
  publish<Name extends EventName<MyEvents>>(
    event: Name,
    data: Payload<MyEvents, Name>,
    { transient = false } = {},
  ): Promise<Response<"publish">> {
    const request = { ...this.ref, event, data: data as JsonValue };
    if (transient) return this.client.ask("publish", { ...request, transient });
    return this.client.insist("publish", { ...request, client_id: randomId() });
  }

  edit(message_id: string, content: string): Promise<Message> {
    return this.client.insist("edit", { message_id, content });
  }

  async delete(message_id: string): Promise<void> {
    await this.client.insist("delete", { message_id });
  }

  react(message_id: string, emoji: string, { remove = false } = {}): Promise<Message> {
    return this.client.insist("react", { message_id, emoji, remove });
  }

  /** Show the others that the user is typing. Does nothing without a connection. */
  async typing(typing = true): Promise<void> {
    if (this.client.status.is === "online")
      await this.client.connection.ask("typing", { ...this.ref, typing }).catch(() => undefined);
  }

  /** Mark the room, or a thread in it, as read up to a seq. Resolves with what is still unread there. */
  async read(seq: number, options: { thread?: string } = {}): Promise<number> {
    return (await this.client.insist("read", { ...this.ref, seq, ...options })).unread;
  }

  /** All members, with who is online. */
  async members(): Promise<Member[]> {
    const members: Member[] = [];
    let after: string | null = null;
    do {
      const page: Response<"get_members"> = await this.client.ask("get_members", {
        ...this.ref,
        limit: 500,
        ...(after === null ? {} : { after }),
      });
      members.push(...page.members);
      after = page.next;
    } while (after !== null);
    return members;
  }

  /**
   * A page of messages, in seq order: before or after a seq; the newest one without either. Of the room, of one
   * `thread`, or of the room without the replies in threads.
   */
  history(
    options: { before?: number; after?: number; limit?: number; thread?: string; without_threads?: boolean } = {},
  ): Promise<History> {
    return this.client.ask("history", { ...this.ref, ...options });
  }

  /**
   * The messages of this room: those that this consumer has missed, then live, in order, each once. The position is
   * stored when the next message is asked for: after a crash, the one that was being processed comes again. A new
   * consumer begins with the oldest message that this device keeps.
   *
   * A streaming message comes when it is opened; `finished` has its final content.
   */
  async *messages({ consumer = "default" }: ConsumeOptions = {}): AsyncGenerator<Message, void, undefined> {
    for await (const row of this.consume("message", `messages ${consumer}`)) yield row.data as Message;
  }

  /** The application's events of this room, of one name or of all; else as `messages`. */
  async *events<Name extends EventName<MyEvents>>(
    name: Name | null = null,
    { consumer = "default" }: ConsumeOptions = {},
  ): AsyncGenerator<Published<Payload<MyEvents, Name>>, void, undefined> {
    const full = `events ${name ?? "*"} ${consumer}`;
    for await (const row of this.consume("event", full)) {
      const event = row.data as Published<Payload<MyEvents, Name>>;
      if (name === null || event.event === name) yield event;
    }
  }

  /** Call `handler` with each event of this room; else as `Client.on`. */
  on<Name extends keyof EventMap<MyEvents> & string>(
    event: Name,
    handler: (data: EventMap<MyEvents>[Name], name: string) => void,
  ): () => void {
    return this.client.on(event, (data, name) => {
      if ((data as { room_id?: string }).room_id === this.room_id && this.room_id !== null) handler(data, name);
    });
  }

  /** Open a message that is written while it is read: `const stream = await room.stream()`, then `write`, `finish`. */
  async stream(options: Partial<Omit<Draft, "files">> = {}): Promise<MessageStream> {
    const { client } = this;
    const request = { client_id: randomId(), ...this.ref, content: "", ...options, stream: true };
    const { MessageStream } = await import("./stream.ts");
    return MessageStream.open({
      open: () => client.insist("message", request),
      ask: (action, payload) => client.connection.ask(action, payload),
      online: () => client.connection.online(),
    });
  }

  /** Resolves with a streaming message when it is complete or interrupted. */
  async finished(message: Message): Promise<Message> {
    for (;;) {
      const version = this.client.changes;
      const [row] = await this.client.log.after(message.room_id, message.seq - 1, 1);
      const now = row?.is === "message" && row.data.id === message.id ? row.data : message;
      if (now.state !== "streaming") return now;
      await this.client.changed(version);
      if (this.client.isClosed) throw this.client.connection.ended();
    }
  }

  /** The live list of messages for a user interface; the same object for each call. */
  async timeline(): Promise<Timeline> {
    const room_id = await this.resolve();
    const { client } = this;
    return client.timeline(
      room_id,
      () =>
        new Timeline({
          held: async () => {
            const rows = await client.log.newest(room_id, PAGE);
            const messages = rows.flatMap((row) => (row.is === "message" ? [row.data] : []));
            return { messages, hasOlder: rows.length === PAGE || client.log.floor(room_id) !== 0 };
          },
          streamed: (message_id) => client.streamed(message_id),
          unsent: () => client.unsent.filter((unsent) => client.roomIdOf(unsent.room) === room_id),
          history: (before, limit) =>
            client.ask("history", { room_id, limit, ...(before === undefined ? {} : { before }) }),
        }),
    );
  }

  /** A live list of the members, with who is online. */
  async presence(): Promise<Presence> {
    const { Presence } = await import("./presence.ts");
    return new Presence(this.client as unknown as Client<never>, await this.resolve());
  }

  /** The room's id; asks the server if this device does not know it. */
  async resolve(): Promise<string> {
    const known = this.room_id;
    if (known !== null) return known;
    const { topic_name, username } = this.given;
    if (typeof username === "string")
      return (await this.client.insist("create_conversation", { usernames: [username] })).room_id;
    for (const room of await this.client.roomInfos())
      if (room.topic_name !== null) await this.client.remember(room.topic_name, room.room_id);
    const found = this.room_id;
    if (found !== null) return found;
    throw new TidingsError({ code: "not_found", message: `You are not in a topic ${topic_name}.` });
  }

  private get ref(): RoomRef {
    const { room_id, topic_name, username } = this.given;
    if (typeof room_id === "string") return { room_id };
    return typeof topic_name === "string" ? { topic_name } : { username: username ?? "" };
  }

  private async *consume(kind: Kept["is"], consumer: string): AsyncGenerator<Kept, void, undefined> {
    const { client } = this;
    const { log } = client;
    const room_id = await this.resolve();
    const release = await this.acquire(`${consumer} ${room_id}`);
    try {
      while (!client.isClosed) {
        const version = client.changes;
        await client.settled(room_id);
        const resets = client.resetsOf(room_id);
        const floor = log.floor(room_id);
        let position = await log.position(room_id, consumer);
        if (position === undefined && floor !== undefined) {
          await this.move(room_id, consumer, floor);
          position = floor;
        }
        const { rows, end } = position === undefined ? NONE : await this.beyond(room_id, kind, position, floor ?? 0);
        let moved = true;
        for (const row of rows) {
          if (row.is !== kind) continue;
          yield row;
          moved = client.resetsOf(room_id) === resets;
          if (!moved) break;
          if (client.isClosed) return;
          await this.move(room_id, consumer, row.data.seq ?? 0);
        }
        if (moved && end !== null) await this.move(room_id, consumer, end);
        else if (moved) await client.changed(version);
      }
    } finally {
      release();
    }
  }

  /** What is beyond a position, and up to where that is complete; null: there is nothing yet. */
  private async beyond(room_id: string, kind: Kept["is"], position: number, floor: number): Promise<Beyond> {
    if (position >= floor) {
      const rows = await this.client.log.after(room_id, position, PAGE);
      return { rows, end: rows.at(-1)?.data.seq ?? null };
    }
    // This device does not keep it any more, or never had it.
    const request = { room_id, after: position, limit: PAGE };
    let rows: Kept[];
    let has_more: boolean;
    if (kind === "message") {
      const page = await this.client.insist("history", request);
      rows = page.messages.map((data): Kept => ({ is: "message", data }));
      ({ has_more } = page);
    } else {
      const page = await this.client.insist("get_events", request);
      rows = page.events.map((data): Kept => ({ is: "event", data: data as Published<JsonValue> }));
      ({ has_more } = page);
    }
    const missing = rows.filter(({ data }) => (data.seq ?? 0) <= floor);
    const goesOn = has_more && missing.length === rows.length;
    return { rows: missing, end: goesOn ? (missing.at(-1)?.data.seq ?? floor) : floor };
  }

  /** Store a position; while the store cannot be written, nothing more is handed over. */
  private async move(room_id: string, consumer: string, seq: number): Promise<void> {
    for (let wait = 100; !this.client.isClosed; wait = Math.min(5000, wait * 2)) {
      try {
        return await this.client.log.move(room_id, consumer, seq);
      } catch {
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
  }

  /** Hold a lock of the store until the returned function is called. */
  private acquire(name: string): Promise<() => void> {
    return new Promise((resolve, reject) => {
      const stop = this.client.onStatus(({ is }) => {
        if (is === "closed") resolve(() => undefined);
      });
      const work = () =>
        new Promise<void>((release) => {
          if (this.client.isClosed) release();
          else resolve(release);
        });
      this.client.store.lock(name, work).catch(reject).finally(stop);
    });
  }
}

interface Beyond {
  readonly rows: readonly Kept[];
  readonly end: number | null;
}

const NONE: Beyond = { rows: [], end: null };
