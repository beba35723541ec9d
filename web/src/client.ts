/**
 * The client of one signed-in user. It connects the library (`@tidings/client`), which holds the connection, the log and
 * the outbox, with the state that the views show.
 *
 * An event goes library (stored, with its cursor) → `applied` (store.ts) → views; a message goes `send` → library
 * (stored) → server, and comes back as an event.
 */
import {
  type ActionName,
  connect,
  type FileDraft,
  IndexedDbStore,
  type Client as LiveClient,
  type Status,
  TidingsError,
} from "@tidings/client";
import { createStore, type StoreApi } from "zustand/vanilla";
import { Blocks } from "./blocks.ts";
import { Cache, storeOf } from "./cache.ts";
import type { Account, Actions, Message, Room, RoomKind, Rooms } from "./contract.gen.ts";
import { eventOf, type ServerEvent } from "./events.ts";
import { Folded } from "./folded.ts";
import { m } from "./i18n.ts";
import { Loading } from "./loading.ts";
import { keepLastRoom } from "./location.ts";
import { Reading } from "./reading.ts";
import {
  deviceName,
  exported,
  get,
  isAdmin,
  mayInviteNewcomers,
  newRegistrationLink,
  noAnswer,
  refreshed,
  type Session,
  saveSession,
  uploaded,
} from "./session.ts";
import { applied, type Change, initial, KEPT, type RoomState, type State } from "./store.ts";
import type { HeldThread } from "./threads.ts";
import { find, tailOf } from "./timeline.ts";
import { type Unsent, UnsentMessages } from "./unsent.ts";
import { forgetUse } from "./views/often.ts";

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
  /** The rooms with a draft */
  readonly drafts: ReadonlySet<string>;
  /** The sections of the list of rooms that are folded */
  readonly folded: ReadonlySet<string>;
}

const ROOMS_PAGE = 500;
const PREFETCHED = 12;
const KEEP_AFTER = 500;
const TYPING_EVERY = 3000;
/** How long a server that announced a restart may be away before it counts as unreachable (ms). */
const RESTARTS_WITHIN = 5000;

export class Client {
  readonly view: StoreApi<View>;
  private session: Session;
  private readonly live: LiveClient;
  private readonly cache: Cache;
  /** Loads what no event brings. */
  readonly load: Loading;
  readonly blocks: Blocks;
  readonly folded: Folded;
  private readonly listeners = new Set<(messages: readonly Message[]) => void>();
  private readonly timers = new Set<ReturnType<typeof setTimeout>>();
  private readonly typedAt = new Map<string, number>();
  private readonly reading: Reading;
  private readonly drafts = new Map<string, string>();
  private readonly unsent: UnsentMessages;
  private queue: Change[] = [];
  private scheduled = false;
  private keepTimer: ReturnType<typeof setTimeout> | null = null;
  private stopped = false;
  /** Whether the current attempt to connect has requested the snapshot of the rooms. */
  private snapshotIsNew = false;
  /** When the server announced a restart (ms) */
  private restartsSince = Number.NEGATIVE_INFINITY;
  /** The room on the screen, whose messages are not trimmed. */
  private watched: string | null = null;

  /** Open the user's store, and start to connect. */
  static async open(session: Session): Promise<Client> {
    const { username } = session;
    const store = await IndexedDbStore.open(storeOf(username));
    let opened: (client: Client) => void = () => undefined;
    const opening = new Promise<Client>((resolve) => {
      opened = resolve;
    });
    const live = await connect(".", {
      token: async () => (await opening).token(),
      store,
      device: deviceName(),
      wait: false,
      cursors: async () => (await opening).cursors(),
    });
    try {
      const cache = new Cache(store);
      const client = new Client(session, live, cache, await cache.load(live.log, username), await cache.drafted());
      opened(client);
      return client;
    } catch (error) {
      await live.close();
      throw error;
    }
  }

  private constructor(
    session: Session,
    live: LiveClient,
    cache: Cache,
    rooms: ReadonlyMap<string, RoomState>,
    drafts: ReadonlySet<string>,
  ) {
    this.session = session;
    this.live = live;
    this.cache = cache;
    this.folded = new Folded({
      ask: (action, request) => this.ask(action, request),
      account: async () => (await get("api/me", this.session.token)) as Account,
      changed: (folded) => this.view.setState({ folded }),
    });
    this.view = createStore<View>(() => ({
      state: { ...initial(session.username), rooms },
      status: live.status,
      loaded: rooms.size > 0,
      unsent: [],
      blocked: null,
      drafts,
      folded: this.folded.sections,
    }));
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
      ready: () => this.isOnline,
      later: (work, after) => this.later(work, after),
    });
    live.on("*", (data, name) => {
      const event = eventOf(name, data);
      if (event !== null) this.event(event);
    });
    live.onStatus((status) => this.changeStatus(status));
    this.unsent = new UnsentMessages({
      live,
      has: ({ room_id, seq }) => seq <= (this.room(room_id)?.cursor ?? Number.POSITIVE_INFINITY),
      changed: (unsent) => this.view.setState({ unsent }),
      muted: (room_id, details) => this.mute(room_id, details),
    });
    document.addEventListener("visibilitychange", this.hidden);
    window.addEventListener("pagehide", this.hidden);
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

  private get isOnline(): boolean {
    return this.live.status.is === "online";
  }

  /** Stop. What is stored stays. */
  async stop(): Promise<void> {
    if (this.stopped) return;
    this.flush();
    this.stopped = true;
    document.removeEventListener("visibilitychange", this.hidden);
    window.removeEventListener("pagehide", this.hidden);
    for (const timer of this.timers) clearTimeout(timer);
    await this.cache.write(this.state.rooms);
    await this.live.close();
  }

  /** Revoke the session and delete the user's data on this device. */
  async signOut(): Promise<void> {
    if (localStorage.getItem("tidings.push") !== null)
      await import("./push.ts").then(({ switchPushOff }) => switchPushOff()).catch(() => undefined);
    await this.ask("logout", {}).catch(() => undefined); // without a connection the token outlives us until it expires
    saveSession(null);
    keepLastRoom(null);
    forgetUse();
    this.folded.forget();
    await this.stop();
    await IndexedDbStore.delete(storeOf(this.me));
  }

  /** The server's data about the user, as JSON lines. Raises a `TidingsError`. */
  export(): Promise<Blob> {
    return exported(this.session.token);
  }

  /** Upload a small file; its id. Raises a `TidingsError`. */
  async upload(name: string, content: Blob): Promise<string> {
    const { id, url } = await this.ask("create_upload", { name, size: content.size });
    await uploaded(url, content, this.session.token);
    return id;
  }

  isAdmin(): Promise<boolean> {
    return isAdmin(this.session.token);
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

  /** Request an action, if there is a connection. Events sent before the answer are applied by then. Raises a `TidingsError`. */
  async ask<A extends ActionName>(action: A, request: Actions[A]["request"]): Promise<Actions[A]["response"]> {
    if (!this.isOnline) throw noAnswer(m("There is no connection to the server."));
    const data = await this.live.ask(action, request);
    this.flush();
    return data;
  }

  /** Try to connect now. After the server has ended the connection for good, that takes a new page. */
  reconnect(): void {
    if (this.live.status.is === "closed") window.location.reload();
    else this.live.reconnect();
  }

  // Messages

  /** Put a message in the outbox. It is stored when this returns, and sent once as soon as there is a connection. */
  async send(
    room_id: string,
    content: string,
    {
      reply_to,
      thread,
      files = [],
    }: { reply_to?: string | undefined; thread?: string | undefined; files?: readonly FileDraft[] } = {},
  ): Promise<void> {
    // The server throttles typing notices. Without this stop, it would drop the next one if the user types on.
    this.typing(room_id, false);
    const about = { ...(reply_to === undefined ? {} : { reply_to }), ...(thread === undefined ? {} : { thread }) };
    const all = files.length === 0 ? about : { ...about, files };
    await this.live.room({ room_id }).enqueue(content, all);
  }

  async retryUnsent(client_id: string): Promise<void> {
    await this.unsent.get(client_id)?.retry();
  }

  async withoutFile(client_id: string, index: number): Promise<void> {
    await this.unsent.get(client_id)?.withoutFile(index);
  }

  async discardUnsent(client_id: string): Promise<void> {
    await this.unsent.get(client_id)?.withdraw();
  }

  /** Only a refusal tells that the user is muted: there is no event. */
  private mute(room_id: string, details: Readonly<Record<string, unknown>>): void {
    if (typeof details.muted_until === "string") this.take({ type: "muted", room_id, until: details.muted_until });
  }

  /** Send a typing notice, at most every few seconds. */
  typing(room_id: string, typing: boolean): void {
    const now = Date.now();
    const last = this.typedAt.get(room_id);
    if (typing ? last !== undefined && now - last < TYPING_EVERY : last === undefined) return;
    if (typing) this.typedAt.set(room_id, now);
    else this.typedAt.delete(room_id);
    if (!this.isOnline) return;
    this.ask("typing", { room_id, typing }).then(
      () => this.take({ type: "muted", room_id, until: null }),
      (error) => this.mute(room_id, error instanceof TidingsError ? error.details : {}),
    );
  }

  async draft(room_id: string): Promise<string> {
    return this.drafts.get(room_id) ?? (await this.cache.draft(room_id));
  }

  keepDraft(room_id: string, text: string): void {
    this.drafts.set(room_id, text);
    const { drafts } = this.view.getState();
    if (drafts.has(room_id) === (text === "")) {
      const next = new Set(drafts);
      if (!next.delete(room_id)) next.add(room_id);
      this.view.setState({ drafts: next });
    }
    if (!this.stopped) void this.cache.keepDraft(room_id, text);
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

  /** The user has seen a thread up to its newest reply. Without a connection, it stays unread. */
  readThread({ room_id, id, replies }: HeldThread): void {
    const seq = replies?.at(-1)?.seq;
    if (seq !== undefined) this.ask("read", { room_id, thread: id, seq }).catch(() => undefined);
  }

  /** Mark all rooms as read. Returns what makes them unread again, as they were. */
  readAll(): () => Promise<void> {
    this.flush();
    const unread = [...this.state.rooms.values()].map(({ room }) => room).filter(({ unread }) => unread > 0);
    this.show(this.reading.readAll(this.state));
    return async () => {
      for (const { room_id, read_seq, preferences } of unread) {
        this.reading.forget(room_id);
        await this.ask("mark_unread", {
          room_id,
          seq: Math.min(preferences?.unread_from ?? read_seq + 1, read_seq + 1),
        });
      }
    };
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

  private changeStatus(status: Status): void {
    if (status.is === "offline" || status.is === "closed") {
      this.snapshotIsNew = false;
      this.take({ type: "disconnected" });
    }
    if (status.is === "offline" && status.why === "shutdown") this.restartsSince = performance.now();
    const restarts = performance.now() - this.restartsSince < RESTARTS_WITHIN;
    const known = restarts && status.is === "offline" && status.why === "unreachable";
    this.flush(); // what arrived before
    this.view.setState({ status: known ? { ...status, why: "shutdown" } : status });
    if (status.is === "online") this.reading.tell();
  }

  /** Where the rooms begin that the library does not know. A device without data loads a snapshot first. */
  private async cursors(): Promise<Record<string, number>> {
    if (!this.view.getState().loaded) {
      await this.loadRooms();
      this.snapshotIsNew = true;
      this.view.setState({ loaded: true });
    }
    this.flush();
    const cursors: Record<string, number> = {};
    for (const [room_id, { cursor }] of this.state.rooms) cursors[room_id] = cursor;
    return cursors;
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
    } while (epoch !== this.state.epoch && this.isOnline); // the next connection asks anyway
  }

  private event(event: ServerEvent): void {
    this.take(event);
    if (event.type === "profile" && event.data.folded != null) this.folded.changedElsewhere(event.data.folded);
    if (event.type !== "ready") return;
    this.flush();
    this.cache.overwrite(event.data.reset);
    // A snapshot that was just loaded lacks only the presence of the other users in conversations.
    const lacking = this.snapshotIsNew && event.data.reset.length === 0 ? "direct" : undefined;
    this.snapshotIsNew = false;
    void this.caughtUp(lacking);
  }

  /** After the replay, reload what has no seq, of all rooms or of one kind, and send the outbox. */
  private async caughtUp(kind?: RoomKind): Promise<void> {
    for (const [room_id] of this.state.rooms) if (room_id !== this.watched) this.take({ type: "tail_only", room_id });
    try {
      await this.loadRooms(kind);
      await this.folded.load();
      await this.load.threads();
      await this.prefetch();
      if (localStorage.getItem("tidings.push") !== null)
        await import("./push.ts").then(({ renewPush }) => renewPush(this)).catch(() => undefined);
    } catch (error) {
      if (!(error instanceof TidingsError)) throw error; // the next connection asks again
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
      if (message.sender !== this.me || message.client_id === null) continue;
      this.unsent.arrived(message.client_id);
      this.take({ type: "muted", room_id: message.room_id, until: null });
    }
    if (others.length > 0) for (const listener of this.listeners) listener(others);
  }

  // Storing

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
    return this.cache.write(this.state.rooms);
  }

  /** The token; a new one, if it ends soon. */
  private async token(): Promise<string> {
    this.session = await refreshed(this.session);
    return this.session.token;
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
