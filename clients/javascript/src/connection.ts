/**
 * The live connection: events in, in order, and actions out. It reconnects unless the server forbids it, each time
 * with a fresh token and the current cursors.
 */
import { io, type Socket } from "socket.io-client";
import type { ActionError, Answer, CloseReason, Closing, ConnectAuth } from "./contract.gen.ts";
import { fromServer, isClosed, noAnswer, TidingsError } from "./errors.ts";
import type { ActionName, Request, Response } from "./types.ts";

/**
 * A token, or a function that gets a fresh one. If it rejects with a `TidingsError` that is not retryable, the client
 * closes; after any other error it tries again.
 */
export type Token = string | (() => string | Promise<string>);

export type Status =
  | { readonly is: "connecting" }
  | { readonly is: "online" }
  /** It tries again by itself. `error`: why the last attempt failed. */
  | { readonly is: "offline"; readonly why: CloseReason | "unreachable"; readonly error?: TidingsError }
  /** It does not try again. `error`: why; null after `close()`. */
  | { readonly is: "closed"; readonly why: CloseReason | "refused" | "closed"; readonly error: TidingsError | null };

export interface ConnectionOptions {
  readonly url: string;
  readonly token: Token;
  /** The payload of a connect, without its token. All events of the last connection are processed by then. */
  auth(): Promise<Omit<ConnectAuth, "token">>;
  /** Resolves when all events that have arrived are stored. */
  recorded(): Promise<void>;
  /** Called in the order of arrival. */
  event(name: string, data: unknown): void;
  status(status: Status): void;
}

const ANSWER_WITHIN = 20_000;
const FIRST_WAIT = 250;
const LONGEST_WAIT = 10_000;
/** A fresh token is asked for when so much of its life is left (ms), or a fifth of it if that is less. */
const RENEW_BEFORE = 5 * 60_000;
const LONGEST_TIMER = 2 ** 31 - 1;
/** So many refusals of a token in a row are answered with a fresh one. */
const MAX_TOKENS_REFUSED = 5;

export class Connection {
  private readonly socket: Socket;
  private readonly options: ConnectionOptions;
  private state: Status = { is: "connecting" };
  private closing: Closing | null = null;
  private wait = FIRST_WAIT;
  private refusals = 0;
  private retryTimer: Timer | undefined;
  private renewTimer: Timer | undefined;
  private readonly waiting = new Set<() => void>();
  private auth: ConnectAuth | null = null;
  private attempting = false;
  private readonly base: string;

  constructor(options: ConnectionOptions) {
    this.options = options;
    const { origin, pathname } = new URL(options.url, globalThis.location?.href);
    const path = `${pathname.replace(/\/$/, "")}/`;
    this.base = origin + path;
    this.socket = io(origin, {
      path: `${path}socket.io`,
      autoConnect: false,
      forceNew: true,
      reconnection: false, // done here: the library does not know `closing`
      transports: ["websocket", "polling"],
      tryAllTransports: true,
      auth: (give) => give(this.auth ?? {}),
      timeout: ANSWER_WITHIN,
    });
    this.socket.onAny((name: string, data: unknown) => this.received(name, data));
    this.socket.on("connect_error", (error: Error & { data?: unknown }) => {
      const refusal = error.data as ActionError | undefined; // undefined: no server answered
      this.failed(refusal?.code === undefined ? noAnswer(error.message) : fromServer(refusal));
    });
    this.socket.on("disconnect", () => this.disconnected());
    globalThis.addEventListener?.("online", this.networkIsBack);
    globalThis.addEventListener?.("offline", this.networkIsGone);
  }

  get status(): Status {
    return this.state;
  }

  get isOnline(): boolean {
    return this.state.is === "online";
  }

  /** Connect, now. */
  connect(): void {
    clearTimeout(this.retryTimer);
    if (this.attempting || this.state.is === "closed") return;
    this.attempting = true;
    this.change({ is: "connecting" });
    void this.begin();
  }

  /** End the connection, and make another one later. */
  restart(error: TidingsError): void {
    if (this.state.is === "closed") return;
    this.attempting = false;
    this.socket.disconnect();
    this.failed(error);
  }

  close(why: CloseReason | "refused" | "closed" = "closed", error: TidingsError | null = null): void {
    if (this.state.is === "closed") return;
    clearTimeout(this.retryTimer);
    clearTimeout(this.renewTimer);
    globalThis.removeEventListener?.("online", this.networkIsBack);
    globalThis.removeEventListener?.("offline", this.networkIsGone);
    this.attempting = false;
    this.socket.offAny();
    this.socket.off();
    this.socket.disconnect();
    this.change({ is: "closed", why, error });
  }

  /** The address of a path at the server, and the token that is valid now. */
  at(path: string): { readonly url: string; readonly token: string } {
    return { url: this.base + path, token: this.auth?.token ?? "" };
  }

  /** Why there will be no connection any more. */
  ended(): TidingsError {
    return (this.state.is === "closed" ? this.state.error : null) ?? isClosed();
  }

  /** Resolves when there is a connection; rejects when there will be none, or not within so many ms. */
  online(within = Number.POSITIVE_INFINITY): Promise<void> {
    return new Promise((resolve, reject) => {
      let timer: Timer | undefined;
      const look = () => {
        if (this.state.is !== "online" && this.state.is !== "closed") return;
        this.waiting.delete(look);
        clearTimeout(timer);
        if (this.state.is === "online") resolve();
        else reject(this.ended());
      };
      this.waiting.add(look);
      if (within !== Number.POSITIVE_INFINITY)
        timer = setTimeout(() => {
          this.waiting.delete(look);
          reject(noAnswer("There is no connection to the server."));
        }, within);
      look();
    });
  }

  /** Request an action. Rejects with a `TidingsError`; its code is `offline` if no answer came. */
  async ask<A extends ActionName>(action: A, request: Request<A>): Promise<Response<A>> {
    if (this.state.is === "closed") throw this.ended();
    if (!this.socket.connected) throw noAnswer("There is no connection to the server.");
    let answer: Answer<Response<A>>;
    try {
      answer = (await this.socket.timeout(ANSWER_WITHIN).emitWithAck(action, request)) as Answer<Response<A>>;
    } catch {
      throw noAnswer("The server did not answer.");
    }
    if (!answer.ok) throw fromServer(answer.error);
    return answer.data;
  }

  private async begin(): Promise<void> {
    try {
      const token = await this.token();
      this.auth = { token, ...(await this.options.auth()) };
    } catch (error) {
      // Getting a token may fail as a connection may: without network, too.
      if (!this.attempting) return;
      const why = error instanceof TidingsError ? error : noAnswer(`No token: ${error}`);
      if (why.retryable || why.code === "rate_limited") this.failed(why);
      else this.close("refused", why);
      return;
    }
    if (!this.attempting) return;
    this.socket.connect();
    this.answerPings(this.socket.io.engine as unknown as Engine);
  }

  /** A PONG proves to the server that what it sent before the PING has arrived: answer when that is stored. */
  private answerPings(engine: Engine): void {
    const send = engine._sendPacket;
    engine._sendPacket = (type, ...rest) => {
      if (type !== "pong") send.call(engine, type, ...rest);
      // The library emits events in a later turn than their packets.
      else setTimeout(() => void this.options.recorded().then(() => send.call(engine, type, ...rest)));
    };
  }

  private async token(): Promise<string> {
    const { token } = this.options;
    return typeof token === "string" ? token : token();
  }

  private received(name: string, data: unknown): void {
    if (name === "closing") this.closing = data as Closing;
    this.options.event(name, data);
  }

  /** `ready` and all before it are processed. */
  isReady(): void {
    if (!this.socket.connected) return;
    this.wait = FIRST_WAIT;
    this.refusals = 0;
    this.planRenewal(this.auth?.token ?? "");
    this.change({ is: "online" });
  }

  private planRenewal(token: string): void {
    clearTimeout(this.renewTimer);
    const life = lifeOf(token);
    if (!this.canRenew || life === null) return; // the server closes the connection when it expires
    this.renewTimer = setTimeout(
      () => void this.renew(),
      Math.min(LONGEST_TIMER, life - Math.min(RENEW_BEFORE, life / 5)),
    );
  }

  /** If it fails, the server closes the connection at the end of the token, and the next connect brings another. */
  private async renew(): Promise<void> {
    try {
      const token = await this.token();
      await this.ask("authenticate", { token });
      this.auth = { ...this.auth, token };
      this.planRenewal(token);
    } catch {}
  }

  private disconnected(): void {
    clearTimeout(this.renewTimer);
    const { closing } = this;
    this.closing = null;
    this.attempting = false;
    if (closing?.reconnect === false && !(closing.reason === "token_expired" && this.canRenew)) {
      const message = `The server closed the connection: ${closing.reason}.`;
      const code =
        closing.reason === "token_expired" || closing.reason === "token_revoked" ? closing.reason : "closed";
      this.close(closing.reason, new TidingsError({ code, message }));
    } else this.retry(closing?.reason ?? "unreachable");
  }

  private failed(error: TidingsError): void {
    this.attempting = false;
    if (this.state.is === "closed") return;
    const stale = error.code === "token_expired" || error.code === "unauthenticated";
    if (stale && this.canRenew && ++this.refusals < MAX_TOKENS_REFUSED) this.retry("token_expired", error);
    else if (error.retryable || error.code === "rate_limited") this.retry("unreachable", error);
    else this.close("refused", error);
  }

  private get canRenew(): boolean {
    return typeof this.options.token === "function";
  }

  /** Reconnect after a growing, random delay, so that the clients of a server do not all return together. */
  private retry(why: CloseReason | "unreachable", error?: TidingsError): void {
    clearTimeout(this.retryTimer);
    const seconds = error?.retryAfter ?? null;
    const after = seconds === null ? this.wait * (0.5 + Math.random()) : seconds * 1000;
    this.wait = Math.min(LONGEST_WAIT, this.wait * 2);
    this.change({ is: "offline", why, ...(error === undefined ? {} : { error }) });
    this.retryTimer = setTimeout(() => this.connect(), after);
  }

  private change(status: Status): void {
    this.state = status;
    for (const look of [...this.waiting]) look();
    this.options.status(status);
  }

  private readonly networkIsBack = (): void => {
    if (this.state.is === "offline") this.connect();
  };

  /** The browser notices a lost network immediately, the socket perhaps only after a minute. */
  private readonly networkIsGone = (): void => {
    if (this.socket.connected) this.socket.io.engine.close();
  };
}

/** The part of engine.io-client that sends packets, by its name in the version that is locked. */
interface Engine {
  _sendPacket(type: string, ...rest: unknown[]): void;
}

/** The life of a JWT that is left (ms): all of it, if the clock says what cannot be. null for another token. */
function lifeOf(token: string): number | null {
  try {
    const body = (token.split(".")[1] as string).replaceAll("-", "+").replaceAll("_", "/");
    const { iat, exp } = JSON.parse(atob(body)) as { iat: number; exp: number };
    if (exp <= iat) return null;
    const left = exp * 1000 - Date.now();
    return left > 0 && left < (exp - iat) * 1000 ? left : (exp - iat) * 1000;
  } catch {
    return null;
  }
}

export type Timer = ReturnType<typeof setTimeout>;
