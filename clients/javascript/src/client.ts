/**
 * The client of one user on one device. An event goes `Connection` → `Log` (stored, with its cursor) → handlers,
 * timelines and iterators; a message goes `Room.send` → `Outbox` (stored) → `Connection`.
 */
import { Connection, type Status, type Token } from "./connection.ts";
import type { Ready, Room as RoomInfo } from "./contract.gen.ts";
import { isTemporary, storeFailed, TidingsError } from "./errors.ts";
import { isEntry, Log, rowOf } from "./log.ts";
import { Outbox, type RoomRef, type Unsent } from "./outbox.ts";
import { Room } from "./room.ts";
import type { Store } from "./store.ts";
import { cutAndAdd } from "./text.ts";
import type { Timeline } from "./timeline.ts";
import type { ActionMethods, ActionName, EventMap, Message, MessageAppend, Request, Response } from "./types.ts";

export interface ClientOptions {
  readonly url: string;
  readonly token: Token;
  readonly store: Store;
  readonly device: string;
  readonly cursors?: Cursors | undefined;
}

/** By room_id, the seq up to which an application has a room that it loaded by itself. */
export type Cursors = () => Readonly<Record<string, number>> | Promise<Readonly<Record<string, number>>>;

type Handler = (data: never, name: string) => void;

const ONLINE_WITHIN = 20_000;
const DELIVERED_AFTER = 500;
const FIRST_WAIT = 250;
const LONGEST_WAIT = 10_000;
const USERNAME = "u";
/** In the queue of events, the place of an answer: what is before it arrived earlier. */
const ANSWER = "";
/** Events after which the log is another one: what follows is stored only when they are processed. */
const CHANGES_OF_LOGS = new Set(["ready", "room_removed"]);

// biome-ignore lint/complexity/noBannedTypes: no events of an application, which is the default
export class Client<MyEvents = {}> {
  readonly device: string;
  /** Every action of a live connection as a method: `client.actions.history({ room_id })`. */
  readonly actions: ActionMethods;
  readonly store: Store;
  readonly log: Log;
  readonly connection: Connection;
  readonly outbox: Outbox;
  private user = "";
  private readonly handlers = new Map<string, Set<Handler>>();
  private readonly statusHandlers = new Set<(status: Status) => void>();
  private readonly unsentHandlers = new Set<() => void>();
  private readonly timelines = new Map<string, Promise<Timeline>>();
  private readonly streams = new Map<string, string>();
  private readonly names = new Map<string, string>();
  private readonly waiting = new Set<() => void>();
  private readonly restoring = new Map<string, Promise<void>>();
  private readonly resets = new Map<string, number>();
  private readonly undelivered = new Set<string>();
  private deliveredTimer: ReturnType<typeof setTimeout> | undefined;
  private queue: (readonly [name: string, data: unknown])[] = [];
  private pumping: Promise<void> | null = null;
  private version = 0;
  private replay: Promise<void> | null = null;
  private endReplay: () => void = () => undefined;

  /** Use `connect`. */
  static async open<MyEvents>(options: ClientOptions): Promise<Client<MyEvents>> {
    const client = new Client<MyEvents>(options);
    await client.log.load();
    await client.outbox.load();
    client.user = ((await options.store.get(USERNAME)) as string | undefined) ?? "";
    for (const [key, room_id] of await options.store.range("k/")) client.names.set(key.slice(2), room_id as string);
    client.connection.connect();
    return client;
  }

  private constructor({ url, token, store, device, cursors }: ClientOptions) {
    this.device = device;
    this.store = store;
    this.log = new Log(store);
    this.connection = new Connection({
      url,
      token,
      auth: async () => {
        await this.pumping; // so that the cursors count all that arrived
        if (cursors !== undefined) await this.log.begin(await cursors());
        return { device, cursors: Object.fromEntries(this.log.cursors) };
      },
      recorded: async () => {
        await this.pumping;
      },
      event: (name, data) => this.arrived(name, data),
      status: (status) => {
        if (status.is !== "connecting") this.endReplay();
        for (const handler of this.statusHandlers) run(() => handler(status));
        if (status.is === "closed") this.wakeConsumers();
      },
    });
    this.outbox = new Outbox({
      store,
      send: (request) => this.connection.ask("message", request),
      isOnline: () => this.connection.isOnline,
      server: this.connection,
      roomIdOf: (room) => this.roomIdOf(room),
      sent: async (message) => (await this.timelines.get(message.room_id))?.acknowledged(message),
      changed: () => this.unsentChanged(),
    });
    this.actions = new Proxy({} as ActionMethods, {
      get: (_, name) =>
        name === "then" ? undefined : (request: never) => this.ask(name as ActionName, request ?? {}),
    });
  }

  /** The user of the token; "" until the client was online once with this store. */
  get username(): string {
    return this.user;
  }

  get status(): Status {
    return this.connection.status;
  }

  /** Messages that wait to be acknowledged, and refused ones that were enqueued, in order. */
  get unsent(): readonly Unsent[] {
    return this.outbox.unsent;
  }

  /**
   * Call `handler` with each event of a name; `"*"`: with every event, and its name. An entry of a room is handed over
   * once, after it was stored; after a crash it is not handed over again. What must be processed is read by
   * `Room.messages` and `Room.events`. Returns a function that stops it.
   */
  on<Name extends keyof EventMap<MyEvents> & string>(
    event: Name,
    handler: (data: EventMap<MyEvents>[Name], name: string) => void,
  ): () => void;
  on(event: "*", handler: (data: unknown, name: string) => void): () => void;
  on(event: string, handler: Handler): () => void {
    const handlers = this.handlers.get(event) ?? new Set();
    this.handlers.set(event, handlers);
    handlers.add(handler);
    return () => handlers.delete(handler);
  }

  onStatus(handler: (status: Status) => void): () => void {
    this.statusHandlers.add(handler);
    return () => this.statusHandlers.delete(handler);
  }

  /** Call `handler` when `unsent` has changed. */
  onUnsent(handler: () => void): () => void {
    this.unsentHandlers.add(handler);
    return () => this.unsentHandlers.delete(handler);
  }

  /** Join a topic, unless the user is in it. Waits for a connection if this device does not know the topic yet. */
  async join(topic_name: string): Promise<Room<MyEvents>> {
    const known = this.roomIdOf({ topic_name });
    if (known !== undefined && !this.connection.isOnline) return new Room(this, { room_id: known, topic_name }, null);
    const { room } = await this.insist("connect_to_room", { topic_name });
    await this.remember(topic_name, room.room_id);
    return new Room(this, { room_id: room.room_id, topic_name: room.topic_name ?? topic_name }, room);
  }

  /** A room by its id, its topic or the other user. Whether it exists turns out when it is used. */
  room(ref: RoomRef): Room<MyEvents> {
    return new Room(this, ref, null);
  }

  /** The rooms that the user is in. */
  async rooms(): Promise<Room<MyEvents>[]> {
    return (await this.roomInfos()).map((info) => new Room(this, info, info));
  }

  /**
   * Request an action, waiting for a connection for up to 20 seconds. Rejects with a `TidingsError`. All events that
   * arrived before the answer have been handed over when it resolves.
   */
  async ask<A extends ActionName>(action: A, request: Request<A>): Promise<Response<A>> {
    await this.connection.online(ONLINE_WITHIN);
    return this.inOrder(this.connection.ask(action, request));
  }

  /** Request an action until it is answered, or refused for good. For what may be repeated only. */
  async insist<A extends ActionName>(action: A, request: Request<A>): Promise<Response<A>> {
    for (let wait = FIRST_WAIT; ; wait = Math.min(LONGEST_WAIT, wait * 2)) {
      await this.connection.online();
      try {
        return await this.inOrder(this.connection.ask(action, request));
      } catch (error) {
        if (!isTemporary(error)) throw error;
        const seconds = error.retryAfter;
        await new Promise((resolve) => setTimeout(resolve, seconds === null ? wait : seconds * 1000));
      }
    }
  }

  /** Try to connect now, instead of after the next delay. */
  reconnect(): void {
    this.connection.connect();
  }

  /** Disconnect, and close the store. What was not sent stays in it. */
  async close(): Promise<void> {
    this.connection.close();
    clearTimeout(this.deliveredTimer);
    await this.outbox.close();
    await this.pumping;
    await this.store.close();
  }

  // For the other modules of the library

  get isClosed(): boolean {
    return this.connection.status.is === "closed";
  }

  roomIdOf(ref: RoomRef): string | undefined {
    return "room_id" in ref ? ref.room_id : "topic_name" in ref ? this.names.get(folded(ref.topic_name)) : undefined;
  }

  async remember(topic_name: string, room_id: string): Promise<void> {
    const name = folded(topic_name);
    if (this.names.get(name) === room_id) return;
    await this.store.commit([{ writes: [[`k/${name}`, room_id]] }]);
    this.names.set(name, room_id);
  }

  async roomInfos(): Promise<RoomInfo[]> {
    const rooms: RoomInfo[] = [];
    let after: string | null = null;
    do {
      const page: Response<"get_rooms"> = await this.insist("get_rooms", {
        member: true,
        limit: 500,
        ...(after === null ? {} : { after }),
      });
      rooms.push(...page.rooms);
      after = page.next;
    } while (after !== null);
    return rooms;
  }

  /** One timeline per room; made when it is first asked for. */
  timeline(room_id: string, make: () => Timeline): Promise<Timeline> {
    const known = this.timelines.get(room_id);
    if (known !== undefined) return known;
    const timeline = make();
    const begun = timeline.begin().then(() => timeline);
    this.timelines.set(room_id, begun);
    return begun;
  }

  streamed(message_id: string): string | undefined {
    return this.streams.get(message_id);
  }

  /** How often something has changed that a consumer may wait for. */
  get changes(): number {
    return this.version;
  }

  /** Resolves when `changes` is another number, or the client is closed. */
  changed(version: number): Promise<void> {
    return new Promise((resolve) => {
      if (this.version !== version || this.isClosed) resolve();
      else this.waiting.add(resolve);
    });
  }

  /** Resolves when a consumer may go on: no replay runs, and the room is read again if its log was reset. */
  async settled(room_id: string): Promise<void> {
    await this.replay; // only `ready`, at its end, says which logs were reset
    await this.restoring.get(room_id);
  }

  /** How often a room's log was reset. */
  resetsOf(room_id: string): number {
    return this.resets.get(room_id) ?? 0;
  }

  // Events

  /** An answer, once the events that arrived before it have been handed over. */
  private async inOrder<T>(answer: Promise<T>): Promise<T> {
    const data = await answer;
    await new Promise<void>((resolve) => this.arrived(ANSWER, resolve));
    return data;
  }

  private arrived(name: string, data: unknown): void {
    this.queue.push([name, data]);
    this.pumping ??= this.pump();
  }

  /** Store what has arrived, then hand it over, in order. */
  private async pump(): Promise<void> {
    let arrived: typeof this.queue = [];
    await null;
    try {
      while (this.queue.length > 0 && !this.isClosed) {
        const last = this.queue.findIndex(([name]) => CHANGES_OF_LOGS.has(name));
        arrived = this.queue.splice(0, last === -1 ? this.queue.length : last + 1);
        const entries = arrived.flatMap(([name, data]) => (isEntry(data) ? [[name, data] as const] : []));
        if (!this.connection.isOnline && arrived.some(([name]) => name !== ANSWER))
          this.replay ??= this.beginReplay();
        const fresh = await this.log.receive(entries);
        for (const [name, data] of arrived) if (!isEntry(data) || fresh.has(data)) await this.handOver(name, data);
        if (this.queue.length === 0 && !this.isClosed) await this.log.trim();
      }
      arrived = [];
    } catch (error) {
      // What was not stored is not beyond the cursor: the next connection brings it again.
      this.connection.restart(new TidingsError({ ...storeFailed(error), message: String(error), retryable: true }));
    }
    // Left are events that the next connection brings again, and answers, which do not come again.
    for (const [name, data] of [...arrived, ...this.queue.splice(0)]) if (name === ANSWER) (data as () => void)();
    this.pumping = null; // in the same turn as the last look at the queue
  }

  private beginReplay(): Promise<void> {
    return new Promise((resolve) => {
      this.endReplay = () => {
        this.replay = null;
        resolve();
      };
    });
  }

  private async handOver(name: string, data: unknown): Promise<void> {
    if (name === ANSWER) return (data as () => void)();
    if (name === "ready") await this.ready(data as Ready);
    if (name === "room_removed") await this.log.leave((data as { room_id: string }).room_id);
    if (name === "message_append") await this.append(data as MessageAppend);
    if (isEntry(data)) {
      const row = rowOf(name, data);
      if (row.is === "message") {
        this.follow(row.data);
        this.outbox.arrived(row.data);
      }
      (await this.timelines.get(data.room_id))?.apply(row);
      this.undelivered.add(data.room_id);
      this.deliveredTimer ??= setTimeout(() => this.confirm(), DELIVERED_AFTER);
      this.wakeConsumers();
    }
    for (const handler of [...(this.handlers.get(name) ?? []), ...(this.handlers.get("*") ?? [])])
      run(() => handler(data as never, name));
  }

  private async ready(ready: Ready): Promise<void> {
    if (this.user !== "" && this.user !== ready.username) {
      const message = `This store belongs to ${this.user}, not to ${ready.username}.`;
      this.connection.close("refused", new TidingsError({ code: "store_of_another", message }));
      return;
    }
    if (this.user === "") await this.store.commit([{ writes: [[USERNAME, ready.username]] }]);
    this.user = ready.username;
    await this.log.reset(ready.reset);
    for (const room_id of await this.log.unrestored()) {
      if (this.restoring.has(room_id)) continue;
      this.resets.set(room_id, this.resetsOf(room_id) + 1);
      this.restoring.set(room_id, this.restore(room_id));
    }
    this.connection.isReady();
    this.outbox.wake();
  }

  /** Read the newest messages of a room whose log was reset. */
  private async restore(room_id: string): Promise<void> {
    try {
      await this.log.restore(room_id, await this.insist("history", { room_id, limit: 200 }));
      await (await this.timelines.get(room_id))?.restart();
    } catch {
      // Not a member any more, or closed; otherwise the next connection tries again.
    } finally {
      this.restoring.delete(room_id);
      this.wakeConsumers();
    }
  }

  private follow(message: Message): void {
    if (message.state !== "streaming") this.streams.delete(message.id);
    else if (!this.streams.has(message.id)) this.streams.set(message.id, message.content);
  }

  private async append({ room_id, message_id, offset, text }: MessageAppend): Promise<void> {
    this.streams.set(message_id, cutAndAdd(this.streams.get(message_id) ?? "", offset, text));
    (await this.timelines.get(room_id))?.grow(message_id);
  }

  /** Tell the server what has arrived: others see it as a receipt. */
  private confirm(): void {
    this.deliveredTimer = undefined;
    const cursors: Record<string, number> = {};
    for (const room_id of this.undelivered) {
      const cursor = this.log.cursor(room_id);
      if (cursor !== undefined) cursors[room_id] = cursor;
    }
    this.undelivered.clear();
    if (this.connection.isOnline) void this.connection.ask("delivered", { cursors }).catch(() => undefined);
  }

  private unsentChanged(): void {
    for (const timeline of this.timelines.values()) void timeline.then((one) => one.change());
    for (const handler of this.unsentHandlers) run(handler);
  }

  private wakeConsumers(): void {
    this.version++;
    const waiting = [...this.waiting];
    this.waiting.clear();
    for (const wake of waiting) wake();
  }
}

/** Run a handler of the application. What it throws is reported, and stops nothing here. */
function run(handler: () => void): void {
  try {
    handler();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

function folded(topic_name: string): string {
  return topic_name.trim().normalize("NFKC").toLowerCase();
}

export interface ConnectOptions {
  /** A token, or a function that gets a fresh one: at each connect, and before the last one expires. */
  readonly token: Token;
  /** Where data is kept: a store, or a name for one (a file on Node, a database in a browser). Default: in memory. */
  readonly store?: string | Store;
  /** Names this installation; each device of a user receives everything. Default: "default". */
  readonly device?: string;
  /** Wait until there is a connection. Default: true. */
  readonly wait?: boolean;
  /**
   * For an application that loads its rooms by itself, such as a list with `get_rooms`: up to where it has them.
   * Asked for at each connect. Rooms that the store does not know yet begin there, instead of where the user's
   * furthest device is.
   */
  readonly cursors?: Cursors;
}

/** Open a store by its name; null: the default. */
export type OpenStore = (name: string | null) => Promise<Store>;

export function connector(openStore: OpenStore) {
  /**
   * Connect to a server. Rejects if the server refuses the token, or the store cannot be opened; while the server
   * cannot be reached it waits, unless `wait` is false.
   */
  // biome-ignore lint/complexity/noBannedTypes: no events of an application, which is the default
  return async function connect<MyEvents = {}>(url: string, options: ConnectOptions): Promise<Client<MyEvents>> {
    const { token, store = null, device = "default", wait = true, cursors } = options;
    const opened = typeof store === "string" || store === null ? await openStore(store) : store;
    let client: Client<MyEvents> | undefined;
    try {
      client = await Client.open<MyEvents>({ url, token, store: opened, device, cursors });
      if (wait) await client.connection.online();
      return client;
    } catch (error) {
      if (client === undefined) await opened.close();
      else await client.close();
      throw error;
    }
  };
}
