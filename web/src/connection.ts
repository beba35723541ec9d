/**
 * The live connection: events in, in order, and actions out. It reconnects unless the server forbids it,
 * and each time brings the newest token and the current cursors.
 */
import { io, type Socket } from "socket.io-client";
import type {
  ActionError,
  Actions,
  Answer,
  ClientToServerEvents,
  CloseReason,
  Closing,
  ConnectAuth,
  ServerToClientEvents,
} from "./contract.gen.ts";
import { EVENTS, isEntry, type ServerEvent } from "./events.ts";
import { noAnswer, Refused } from "./session.ts";

/** Why there is no connection. `refused`: the server refuses this client, and a retry would be futile. */
export type Status =
  | { readonly is: "connecting" }
  | { readonly is: "online" }
  | { readonly is: "offline"; readonly why: CloseReason | "unreachable" | "no_network"; readonly retrying: boolean }
  | { readonly is: "refused"; readonly error: Refused };

export type LiveAction = keyof ClientToServerEvents;

export interface Listener {
  /** Prepare a connect. Raises `Refused`. */
  prepare(): Promise<void>;
  /** The payload of a connect. */
  auth(): ConnectAuth;
  /** Called in the order of arrival; `ready` follows the missed entries. */
  event(event: ServerEvent): void;
  status(status: Status): void;
}

const ANSWER_WITHIN = 20_000;
const FIRST_WAIT = 500;
const LONGEST_WAIT = 10_000;
/** How long a server that announced a restart may be away before it counts as unreachable. */
const RESTARTS_WITHIN = 5000;

export class Connection {
  private readonly socket: Socket<ServerToClientEvents, ClientToServerEvents>;
  private readonly listener: Listener;
  private closing: Closing | null = null;
  /** When the server announced a restart (ms) */
  private restartsSince = Number.NEGATIVE_INFINITY;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private wait = FIRST_WAIT;
  private ready = false;
  /** The current socket, connecting or connected. The library's `active` stays true after a connection is lost. */
  private attempt: object | null = null;

  constructor(listener: Listener) {
    this.listener = listener;
    this.socket = io({
      path: new URL("socket.io", window.location.href).pathname,
      autoConnect: false,
      // This class reconnects by itself, because the library does not know `closing`.
      reconnection: false,
      transports: ["websocket", "polling"],
      tryAllTransports: true,
      auth: (give) => give(listener.auth()),
      timeout: ANSWER_WITHIN,
    });
    this.socket.onAny((name: string, data: unknown) => this.received(name, data));
    this.socket.on("connect_error", (error: Error & { data?: unknown }) => {
      const refusal = error.data as ActionError | undefined; // undefined: no server answered
      this.notConnected(refusal?.code === undefined ? noAnswer(error.message) : new Refused(refusal));
    });
    this.socket.on("disconnect", () => this.disconnected());
    window.addEventListener("online", this.networkIsBack);
    window.addEventListener("offline", this.networkIsGone);
  }

  get isReady(): boolean {
    return this.ready;
  }

  connect(): void {
    this.clearTimer();
    if (this.attempt === null) void this.begin();
  }

  stop(): void {
    this.clearTimer();
    this.attempt = null;
    window.removeEventListener("online", this.networkIsBack);
    window.removeEventListener("offline", this.networkIsGone);
    this.socket.offAny();
    this.socket.off();
    this.socket.disconnect();
  }

  /** Request an action and return the data of its answer. Raises `Refused`; its `code` is null if no answer came. */
  async ask<A extends LiveAction>(action: A, request: Actions[A]["request"]): Promise<Actions[A]["response"]> {
    if (!this.socket.connected) throw noAnswer("There is no connection to the server.");
    const answer = await this.emit<Actions[A]["response"]>(action, request);
    if (answer === null) throw noAnswer("The server did not answer.");
    if (!answer.ok) throw new Refused(answer.error);
    return answer.data;
  }

  private async begin(): Promise<void> {
    const attempt = {};
    this.attempt = attempt;
    this.listener.status({ is: "connecting" });
    try {
      await this.listener.prepare();
      if (this.attempt === attempt) this.socket.connect();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (this.attempt === attempt) this.notConnected(error);
    }
  }

  /** `ask` checks each action's payload by its type. Here one signature covers all actions. */
  private async emit<T>(action: string, request: unknown): Promise<Answer<T> | null> {
    const socket = this.socket.timeout(ANSWER_WITHIN) as unknown as {
      emitWithAck(action: string, request: unknown): Promise<Answer<T>>;
    };
    return socket.emitWithAck(action, request).catch(() => null);
  }

  private received(name: string, data: unknown): void {
    const known = Object.hasOwn(EVENTS, name);
    // Of an application, or of a newer server: it still moves the cursor.
    if (!known && isEntry(data)) this.listener.event({ type: "other_entry", data });
    if (!known) return;
    const event = { type: name, data } as ServerEvent;
    if (event.type === "closing") this.closing = event.data;
    if (event.type === "ready") {
      this.ready = true;
      this.wait = FIRST_WAIT;
    }
    this.listener.event(event);
    if (event.type === "ready") this.listener.status({ is: "online" });
  }

  private notConnected(error: Refused): void {
    this.attempt = null;
    const restarts = performance.now() - this.restartsSince < RESTARTS_WITHIN;
    if (error.retryable) this.retry(restarts ? "shutdown" : "unreachable", error.retryAfter);
    else this.listener.status({ is: "refused", error });
  }

  private disconnected(): void {
    const closing = this.closing;
    this.closing = null;
    this.ready = false;
    this.attempt = null;
    if (closing?.reconnect === false) {
      this.listener.status({ is: "offline", why: closing.reason, retrying: false });
      return;
    }
    if (closing?.reason === "shutdown") this.restartsSince = performance.now();
    this.retry(closing?.reason ?? "unreachable");
  }

  /** Reconnect after a growing, random delay, so that the clients of a server do not all return together. */
  private retry(why: CloseReason | "unreachable", after: number | null = null): void {
    this.clearTimer();
    const chosen = after ?? this.wait * (0.5 + Math.random());
    this.wait = Math.min(LONGEST_WAIT, this.wait * 2);
    this.listener.status({ is: "offline", why: navigator.onLine ? why : "no_network", retrying: true });
    this.timer = setTimeout(() => this.connect(), chosen);
  }

  private clearTimer(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }

  private readonly networkIsBack = (): void => {
    if (this.timer !== null) this.connect();
  };

  /** The browser notices a lost network at once, the socket perhaps only after a minute. */
  private readonly networkIsGone = (): void => {
    if (this.socket.connected) this.socket.io.engine.close();
    else if (this.attempt !== null) {
      this.socket.disconnect();
      this.notConnected(noAnswer("There is no network."));
    }
  };
}
