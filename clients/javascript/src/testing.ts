/** The test kit: a real server for tests on Node, clients, and faults on command. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { type Client, type ConnectOptions, connect } from "./node.ts";

export interface TidingsOptions {
  /** Where your application is, as in `"orders:app"`; without it, the server stands alone. */
  readonly app?: string;
  /** Changes to the server's settings. */
  readonly settings?: Readonly<Record<string, string | number>>;
  /** More than one share a PostgreSQL database. */
  readonly nodes?: number;
  /** The folder in which the Python program starts. */
  readonly cwd?: string;
  /** What starts the kit. By default `$TIDINGS_PYTHON -m tidings.testing`, or else with `python3`. */
  readonly command?: readonly [program: string, ...args: string[]];
}

export type ClientOfTest = Omit<ConnectOptions, "token" | "wait"> & { readonly node?: number };
/** A client made here; or one of your own, by its username and device. */
// biome-ignore lint/suspicious/noExplicitAny: a client of any application's events
export type Named = Client<any> | readonly [username: string, device: string];

interface Answer {
  readonly id?: number;
  readonly url?: string;
  readonly result?: unknown;
  readonly error?: string;
}

interface Waiting {
  resolve(result: never): void;
  reject(error: Error): void;
}

/** Start a server, with nothing in it. Rejects if it cannot start, or if it needs PostgreSQL and there is none. */
export async function startTidings(options: TidingsOptions = {}): Promise<Tidings> {
  const { app, settings = {}, nodes = 1, cwd } = options;
  const [program, ...args] = options.command ?? [process.env.TIDINGS_PYTHON ?? "python3", "-m", "tidings.testing"];
  args.push("--nodes", `${nodes}`, "--settings", JSON.stringify(settings));
  if (app !== undefined) args.push("--app", app);
  const child = spawn(program, args, { cwd, stdio: ["pipe", "pipe", "inherit"] });
  const tidings = new Tidings(child);
  await tidings.started;
  return tidings;
}

/** Made by `startTidings`. */
export class Tidings {
  /** The address for anything but the clients made here. It stays the same when the server restarts. */
  url = "";
  readonly started: Promise<void>;
  private readonly ended: Promise<unknown>;
  // biome-ignore lint/suspicious/noExplicitAny: clients of any application's events
  private readonly clients = new Set<Client<any>>();
  private readonly waiting = new Map<number, Waiting>();
  private readonly child: ChildProcess;
  private last = 0;
  private failure: string | undefined;

  constructor(child: ChildProcess) {
    this.child = child;
    this.started = new Promise((resolve, reject) => this.waiting.set(0, { resolve, reject }));
    this.ended = Promise.all([once(child, "close"), once(this.read(child), "close")])
      .catch((error: Error) => {
        this.failure ??= error.message;
      })
      .finally(() => {
        for (const { reject } of this.waiting.values()) reject(new Error(this.failure ?? "The server has ended."));
      });
    child.stdin?.on("error", () => undefined); // it has ended, as `ended` finds
  }

  /** Make a user, unless there is one of this name; with a token of a new session. */
  user(username: string, options: { display_name?: string } = {}): Promise<{ username: string; token: string }> {
    return this.ask("user", { username, ...options });
  }

  /** Make a key. */
  key(options: { scopes: readonly string[]; name?: string; room?: string }): Promise<string> {
    return this.ask("key", options);
  }

  /** Connect a client of a user, who is made if need be. */
  // biome-ignore lint/complexity/noBannedTypes: no events of an application, which is the default
  async client<MyEvents = {}>(username: string, options: ClientOfTest = {}): Promise<Client<MyEvents>> {
    const { node = 0, device = "default", ...rest } = options;
    const url = await this.link(username, device, node);
    const token = async () => (await this.user(username)).token;
    const client = await connect<MyEvents>(url, { ...rest, device, token });
    this.clients.add(client);
    return client;
  }

  /** The URL for a client of your own. The faults name it by `[username, device]`. */
  link(username: string, device = "default", node = 0): Promise<string> {
    return this.ask("link", { username, device, node });
  }

  /** Reset the client's connections. `stay`: it cannot connect again before `restore`. */
  cut(client: Named, { stay = false } = {}): Promise<void> {
    return this.ask("cut", { client: named(client), stay });
  }

  restore(client: Named): Promise<void> {
    return this.ask("restore", { client: named(client) });
  }

  /**
   * Let the client's next such action take effect, and reset its connection before anything arrives of it. If it
   * requests none until the end, `stop` rejects.
   */
  loseAnswer(client: Named, action = "message"): Promise<void> {
    return this.ask("lose_answer", { client: named(client), action });
  }

  /** Let the database refuse each access, or with `block` delay it, until `resumeStore`. */
  stopStore({ block = false } = {}): Promise<void> {
    return this.ask("stop_store", { block });
  }

  resumeStore(): Promise<void> {
    return this.ask("resume_store", {});
  }

  /** Stop a server as on SIGTERM, and start it again with the same data. The store works again. */
  restart(node = 0): Promise<void> {
    return this.ask("restart", { node });
  }

  /** Let time pass in one leap, for the clocks and the timers of the server. */
  advance(seconds: number): Promise<void> {
    return this.ask("advance", { seconds });
  }

  /** Close the clients made here, and end the server. */
  async stop(): Promise<void> {
    await Promise.all([...this.clients].map((client) => client.close()));
    this.child.stdin?.end();
    await this.ended;
    if (this.failure !== undefined) throw new Error(this.failure);
  }

  private ask<Result>(operation: string, args: object): Promise<Result> {
    if (this.child.exitCode !== null) return Promise.reject(new Error(this.failure ?? "The server has ended."));
    const id = ++this.last;
    const answered = new Promise<Result>((resolve, reject) => this.waiting.set(id, { resolve, reject }));
    this.child.stdin?.write(`${JSON.stringify({ id, do: operation, ...args })}\n`);
    return answered;
  }

  private read(child: ChildProcess) {
    if (child.stdout === null) throw new Error("The server has no output.");
    return createInterface(child.stdout).on("line", (line) => {
      const { id = 0, url, result, error } = JSON.parse(line) as Answer;
      if (url !== undefined) this.url = url;
      if (id === 0) this.failure = error;
      const waiting = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) waiting?.resolve(result as never);
      else waiting?.reject(new Error(error));
    });
  }
}

function named(client: Named): readonly [string, string] {
  return "username" in client ? [client.username, client.device] : client;
}
