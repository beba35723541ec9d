/**
 * The client of one signed-in user. It connects the live connection, the state, the database and the outbox.
 *
 * A message goes `send` → `Outbox` (IndexedDB) → `Connection` → server, and comes back as an event: `Connection` →
 * `applied` (store.ts) → the views, and → `Database`, with its cursor.
 */
import { createStore, type StoreApi } from "zustand/vanilla";
import { Blocks } from "./blocks.ts";
import { Connection, type LiveAction, type Status } from "./connection.ts";
import type { Actions, Message, Room, RoomKind, Rooms } from "./contract.gen.ts";
import { Database } from "./database.ts";
import type { ServerEvent } from "./events.ts";
import { Loading } from "./loading.ts";
import { keepLastRoom } from "./location.ts";
import { Outbox, type Unsent } from "./outbox.ts";
import { Reading } from "./reading.ts";
import { RoomWriter } from "./roomWriter.ts";
import {
  deviceName,
  exported,
  get,
  mayInviteNewcomers,
  newRegistrationLink,
  Refused,
  refreshed,
  type Session,
  saveSession,
} from "./session.ts";
import { applied, type Change, initial, KEPT, type RoomState, type State } from "./store.ts";
import { find, tailOf } from "./timeline.ts";

/** The data that the views show. */
export interface View {
  readonly state: State;
  readonly status: Status;
  /** Whether the rooms are known, from the server or from the database. */
  readonly loaded: boolean;
  /** Unsent and refused messages, in order. */
  readonly unsent: readonly Unsent[];
  /** The users that this user has blocked; null until they are loaded. */
  readonly blocked: ReadonlySet<string> | null;
}

const ROOMS_PAGE = 500;
const PREFETCHED = 12;
const KEEP_AFTER = 500;
const DELIVERED_AFTER = 250;
const TYPING_EVERY = 3000;
const REFRESH_BEFORE = 15 * 60_000;
const REFRESH_AGAIN = 60_000;

export class Client {
  readonly view: StoreApi<View>;
  private session: Session;
  private readonly database: Database;
  private readonly connection: Connection;
  private readonly outbox: Outbox;
  private readonly roomWriter: RoomWriter;
  /** Loads what no event brings. */
  readonly load: Loading;
  readonly blocks: Blocks;
  private readonly tabs: BroadcastChannel;
  private readonly listeners = new Set<(messages: readonly Message[]) => void>();
  private readonly timers = new Set<ReturnType<typeof setTimeout>>();
  private readonly typedAt = new Map<string, number>();
  private readonly reading: Reading;
  private readonly drafts = new Map<string, string>();
  private queue: Change[] = [];
  private scheduled = false;
  private keepTimer: ReturnType<typeof setTimeout> | null = null;
  private deliveredTimer: ReturnType<typeof setTimeout> | null = null;
  private confirmed: ReadonlyMap<string, RoomState> = new Map();
  private stopped = false;
  /** Whether the current attempt to connect has requested the snapshot of the rooms. */
  private snapshotIsNew = false;
  /** The room on the screen, whose messages are not trimmed. */
  private watched: string | null = null;

  /** Open the user's database, and start to connect. */
  static async open(session: Session): Promise<Client> {
    const database = await Database.open(session.username);
    const client = new Client(session, database, await database.rooms());
    await client.outbox.load();
    client.connection.connect();
    return client;
  }

  private constructor(session: Session, database: Database, rooms: readonly RoomState[]) {
    this.session = session;
    this.database = database;
    const held = new Map(rooms.map((room) => [room.room.room_id, room]));
    this.roomWriter = new RoomWriter(database, held);
    this.confirmed = held;
    this.view = createStore<View>(() => ({
      state: { ...initial(session.username), rooms: held },
      status: { is: "connecting" },
      loaded: rooms.length > 0,
      unsent: [],
      blocked: null,
    }));
    this.connection = new Connection({
      prepare: () => this.prepare(),
      auth: () => ({ token: this.session.token, device: deviceName(), cursors: this.cursors() }),
      event: (event) => this.event(event),
      status: (status) => {
        if (status.is === "offline") {
          this.snapshotIsNew = false;
          this.take({ type: "disconnected" });
        }
        this.view.setState({ status });
      },
    });
    this.tabs = new BroadcastChannel(`tidings ${session.username}`);
    this.tabs.onmessage = () => void this.outbox.load();
    this.outbox = new Outbox({
      store: database.outbox,
      send: (request) => this.speak("message", request),
      has: (message) => message.seq <= (this.room(message.room_id)?.cursor ?? Number.POSITIVE_INFINITY),
      keep: () => this.keep(),
      ready: () => this.connection.isReady,
      changed: (unsent) => this.view.setState({ unsent }),
      alone: (work) =>
        "locks" in navigator ? navigator.locks.request(`tidings outbox ${session.username}`, work) : work(),
      tell: () => this.tabs.postMessage("outbox"),
      later: (work, after) => this.later(work, after),
    });
    this.load = new Loading({
      ask: (action, request) => this.ask(action, request),
      state: () => this.state,
      take: (change) => {
        this.take(change);
        this.flush();
      },
    });
    this.blocks = new Blocks({
      ask: (action, request) => this.ask(action, request),
      changed: (blocked) => this.view.setState({ blocked }),
    });
    this.reading = new Reading({
      ask: (room_id, seq) => this.ask("read", { room_id, seq }),
      ready: () => this.connection.isReady,
      later: (work, after) => this.later(work, after),
    });
    document.addEventListener("visibilitychange", this.hidden);
    window.addEventListener("pagehide", this.hidden);
    this.planRefresh();
  }

  get me(): string {
    return this.session.username;
  }

  get state(): State {
    return this.view.getState().state;
  }

  room(room_id: string): RoomState | undefined {
    return this.state.rooms.get(room_id);
  }

  /** Stop. The database stays. */
  async stop(): Promise<void> {
    if (this.stopped) return;
    this.flush();
    this.stopped = true;
    document.removeEventListener("visibilitychange", this.hidden);
    window.removeEventListener("pagehide", this.hidden);
    for (const timer of this.timers) clearTimeout(timer);
    this.connection.stop();
    this.outbox.stop();
    await this.roomWriter.write(this.state.rooms);
    this.tabs.close();
    this.database.close();
  }

  /** Revoke the session and delete the user's data on this device. */
  async signOut(): Promise<void> {
    await this.ask("logout", {}).catch(() => undefined); // without a connection the token outlives us until it expires
    saveSession(null);
    keepLastRoom(null);
    await this.stop();
    await Database.forget(this.me);
  }

  /** The server's data about the user, as JSON lines. Raises `Refused`. */
  export(): Promise<Blob> {
    return exported(this.session.token);
  }

  mayInviteNewcomers(): Promise<boolean> {
    return mayInviteNewcomers(this.session.token);
  }

  newRegistrationLink(): Promise<string> {
    return newRegistrationLink(this.session.token);
  }

  /** Call `heard` with each message of another user that arrives; one that streams, when it is finished. Returns a function that stops it. */
  onMessages(heard: (messages: readonly Message[]) => void): () => void {
    this.listeners.add(heard);
    return () => this.listeners.delete(heard);
  }

  /** Request an action on the live connection. Events sent before the answer are applied by then. Raises `Refused`. */
  async ask<A extends LiveAction>(action: A, request: Actions[A]["request"]): Promise<Actions[A]["response"]> {
    const data = await this.connection.ask(action, request);
    this.flush();
    return data;
  }

  /** Try to connect now. */
  reconnect(): void {
    this.connection.connect();
  }

  // Messages

  /** Put a message in the outbox. It is stored when this returns, and sent once as soon as there is a connection. */
  async send(room_id: string, content: string, reply_to: string | null = null): Promise<void> {
    // The server throttles typing notices. Without this stop, it would drop the next one if the user types on.
    this.typing(room_id, false);
    await this.outbox.send(room_id, content, reply_to);
  }

  /** Request what a muted member may not do. Only the answer tells whether the user is muted: there is no event. */
  private async speak<A extends "message" | "typing">(
    action: A,
    request: Actions[A]["request"] & { room_id: string },
  ): Promise<Actions[A]["response"]> {
    try {
      const answer = await this.connection.ask(action, request);
      this.take({ type: "muted", room_id: request.room_id, until: null });
      return answer;
    } catch (error) {
      const until = error instanceof Refused ? error.details.muted_until : null;
      if (typeof until === "string") this.take({ type: "muted", room_id: request.room_id, until });
      throw error;
    }
  }

  retryUnsent(client_id: string): Promise<void> {
    return this.outbox.retry(client_id);
  }

  discardUnsent(client_id: string): Promise<void> {
    return this.outbox.discard(client_id);
  }

  /** Send a typing notice, at most every few seconds. */
  typing(room_id: string, typing: boolean): void {
    const now = Date.now();
    const last = this.typedAt.get(room_id);
    if (typing ? last !== undefined && now - last < TYPING_EVERY : last === undefined) return;
    if (typing) this.typedAt.set(room_id, now);
    else this.typedAt.delete(room_id);
    if (this.connection.isReady) void this.speak("typing", { room_id, typing }).catch(() => undefined);
  }

  async draft(room_id: string): Promise<string> {
    return this.drafts.get(room_id) ?? (await this.database.draft(room_id));
  }

  keepDraft(room_id: string, text: string): void {
    this.drafts.set(room_id, text);
    if (!this.stopped) void this.database.keepDraft(room_id, text);
  }

  /** The user looks at the end of this room, so arriving messages are read; null: at no room. */
  look(room_id: string | null): void {
    this.reading.look(room_id);
    this.show(this.reading.seen(this.state));
  }

  /** The user has seen a room up to a seq, but not its end. */
  readTo(room_id: string, seq: number): void {
    this.flush();
    this.show(this.reading.readTo(this.state, room_id, seq));
  }

  /** Mark all rooms as read. */
  readAll(): void {
    this.flush();
    this.show(this.reading.readAll(this.state));
  }

  // Pages of the log

  /** Set the room on the screen, or none. Other rooms keep only their newest messages. */
  watch(room_id: string | null): void {
    if (this.watched !== null && this.watched !== room_id) this.take({ type: "tail_only", room_id: this.watched });
    this.watched = room_id;
  }

  /** Drop the messages of a room that are far from a seq. */
  trim(room_id: string, around: number): void {
    this.take({ type: "trim", room_id, around });
  }

  // Receiving

  /** A device without data loads a snapshot first: its cursors say where the events start. */
  private async prepare(): Promise<void> {
    if (this.view.getState().loaded) return;
    await this.loadRooms();
    this.snapshotIsNew = true;
    this.view.setState({ loaded: true });
  }

  /** Load the snapshot of the rooms, again if the user lost a room while it was loading. */
  private async loadRooms(kind?: RoomKind): Promise<void> {
    let epoch: number;
    do {
      this.flush();
      ({ epoch } = this.state);
      const rooms: Room[] = [];
      let after: string | null = null;
      do {
        const next: string = after === null ? "" : `&after=${encodeURIComponent(after)}`;
        const only = kind === undefined ? "" : `&kind=${kind}`;
        const path = `api/rooms?member=true&limit=${ROOMS_PAGE}${only}${next}`;
        const page = (await get(path, this.session.token)) as Rooms;
        rooms.push(...page.rooms);
        after = page.next;
      } while (after !== null);
      this.take({ type: "rooms", epoch, rooms });
      this.flush();
    } while (epoch !== this.state.epoch && this.connection.isReady); // the next connection asks anyway
  }

  private cursors(): Record<string, number> {
    this.flush();
    const cursors: Record<string, number> = {};
    for (const [room_id, { cursor }] of this.state.rooms) cursors[room_id] = cursor;
    return cursors;
  }

  private event(event: ServerEvent): void {
    this.take(event);
    if (event.type !== "ready") return;
    this.flush();
    this.roomWriter.overwrite(event.data.reset);
    // A snapshot that was just loaded lacks only the presence of the other users in conversations.
    const lacking = this.snapshotIsNew && event.data.reset.length === 0 ? "direct" : undefined;
    this.snapshotIsNew = false;
    void this.caughtUp(lacking);
  }

  /** After the replay, reload what has no seq, of all rooms or of one kind, and send the outbox. */
  private async caughtUp(kind?: RoomKind): Promise<void> {
    this.outbox.wake();
    this.reading.tell();
    for (const [room_id] of this.state.rooms) if (room_id !== this.watched) this.take({ type: "tail_only", room_id });
    try {
      await this.loadRooms(kind);
      await this.prefetch();
    } catch (error) {
      if (!(error instanceof Refused)) throw error; // the next connection asks again
    }
  }

  /** Load the newest page of the most recent rooms, so that they open without a wait. */
  private async prefetch(): Promise<void> {
    const newest = [...this.state.rooms.values()]
      .filter(({ segments }) => tailOf(segments).messages.length < KEPT / 10 && tailOf(segments).from > 1)
      .sort((one, other) => spokenAt(other).localeCompare(spokenAt(one)));
    for (const { room, segments } of newest.slice(0, PREFETCHED))
      await this.load.before(room.room_id, tailOf(segments).from);
  }

  private take(change: Change): void {
    this.queue.push(change);
    if (this.scheduled || this.stopped) return;
    this.scheduled = true;
    // A hidden page gets no animation frames.
    if (document.hidden) setTimeout(() => this.flush());
    else requestAnimationFrame(() => this.flush());
  }

  /** Apply the queued changes, once per frame, so that a burst is rendered once. */
  private flush(): void {
    this.scheduled = false;
    if (this.queue.length === 0 || this.stopped) return;
    const changes = this.queue;
    this.queue = [];
    const before = this.state;
    const state = this.reading.seen(applied(before, changes));
    if (state === before) return;
    this.show(state);
    this.deliveredTimer ??= this.later(() => this.confirm(), DELIVERED_AFTER);
    this.heard(before, changes);
  }

  private show(state: State): void {
    if (state === this.state) return;
    this.view.setState({ state });
    this.keepTimer ??= this.later(() => this.keep(), KEEP_AFTER);
  }

  private heard(before: State, changes: readonly Change[]): void {
    const others: Message[] = [];
    const streaming = new Set<string>();
    for (const change of changes) {
      if (change.type === "message_finished") {
        const { message } = change.data;
        const held = before.rooms.get(message.room_id);
        const wasStreaming = held !== undefined && find(held.segments, message.seq)?.state === "streaming";
        if ((wasStreaming || streaming.has(message.id)) && message.sender !== this.me) others.push(message);
      }
      if (change.type !== "message") continue;
      const message = change.data;
      if (message.seq <= (before.rooms.get(message.room_id)?.cursor ?? Number.POSITIVE_INFINITY)) continue;
      if (message.state === "streaming") streaming.add(message.id);
      else if (message.sender !== this.me) others.push(message);
      if (message.sender === this.me && message.client_id !== null) void this.outbox.arrived(message.client_id);
    }
    if (others.length > 0) for (const listener of this.listeners) listener(others);
  }

  // Storing, and informing other tabs

  private readonly hidden = (): void => {
    if (!document.hidden) return;
    this.flush();
    this.keep();
  };

  private keep(): Promise<void> {
    this.keepTimer = null;
    for (const [room_id, room] of this.state.rooms)
      if (room_id !== this.watched && tailOf(room.segments).messages.length > 2 * KEPT)
        this.take({ type: "tail_only", room_id });
    return this.roomWriter.write(this.state.rooms);
  }

  private confirm(): void {
    this.deliveredTimer = null;
    if (!this.connection.isReady) return;
    const cursors: Record<string, number> = {};
    for (const [room_id, { cursor }] of this.state.rooms)
      if (cursor > (this.confirmed.get(room_id)?.cursor ?? 0)) cursors[room_id] = cursor;
    this.confirmed = this.state.rooms;
    if (Object.keys(cursors).length > 0) void this.ask("delivered", { cursors }).catch(() => undefined);
  }

  // The token

  private planRefresh(): void {
    const left = new Date(this.session.expires_at).getTime() - Date.now();
    // Half of a short lifetime. The bound is the longest delay that a timer accepts.
    this.later(() => void this.refresh(), Math.min(Math.max(left - REFRESH_BEFORE, left / 2, 1000), 2 ** 31 - 1));
  }

  private async refresh(): Promise<void> {
    try {
      this.session = await refreshed(this.session);
      saveSession(this.session);
      if (this.connection.isReady) await this.ask("authenticate", { token: this.session.token });
      this.planRefresh();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.retryable) this.later(() => void this.refresh(), REFRESH_AGAIN);
    }
  }

  private later(work: () => void, after: number): ReturnType<typeof setTimeout> {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      work();
    }, after);
    this.timers.add(timer);
    return timer;
  }
}

function spokenAt({ room }: RoomState): string {
  return room.last_message?.created_at ?? "";
}
