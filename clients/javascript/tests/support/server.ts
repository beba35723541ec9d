/** A real `tidings serve`, to be stopped and started again on the same data and address. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const REPOSITORY = fileURLToPath(new URL("../../../..", import.meta.url));
const PYTHON = process.env.TIDINGS_PYTHON ?? join(REPOSITORY, ".venv/bin/python");

export class Server {
  url = "";
  private readonly folder: string;
  private readonly settings: Record<string, string>;
  private process: ChildProcess | null = null;
  private port = "0";
  private log = "";

  private constructor(folder: string, settings: Record<string, string>) {
    this.folder = folder;
    this.settings = settings;
  }

  static async start(settings: Record<string, string> = {}): Promise<Server> {
    const server = new Server(await mkdtemp(join(tmpdir(), "tidings-client-")), settings);
    await server.start();
    return server;
  }

  /** Serve; returns when it listens, on the same port as before. */
  async start(): Promise<void> {
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("TIDINGS_"));
    const started = spawn(PYTHON, ["-m", "tidings", "serve", "--host", "127.0.0.1", "--port", this.port], {
      cwd: REPOSITORY,
      env: {
        ...Object.fromEntries(inherited),
        TIDINGS_DATA_DIR: join(this.folder, "data"),
        TIDINGS_DEV_TOKENS: "true",
        TIDINGS_LOG_LEVEL: "warning",
        TIDINGS_RATE_LIMITS: "off",
        ...this.settings,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.process = started;
    started.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.log += text;
    });
    const lines = createInterface({ input: started.stdout });
    this.url = await new Promise<string>((resolve, reject) => {
      started.once("error", reject);
      started.once("exit", (status) => reject(new Error(`it ended with ${status}: ${this.log}`)));
      lines.on("line", (line) => {
        const found = /http:\/\/127\.0\.0\.1:(\d+)/.exec(line);
        if (found?.[1] === undefined) return;
        this.port = found[1];
        resolve(found[0]);
      });
    });
  }

  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const running = this.process;
    this.process = null;
    if (running === null || running.exitCode !== null) return;
    const gone = once(running, "close");
    running.kill(signal);
    await gone;
  }

  /** Copy the data while nothing is served. */
  async backUp(): Promise<void> {
    await cp(join(this.folder, "data"), join(this.folder, "backup"), { recursive: true });
  }

  async restore(): Promise<void> {
    await rm(join(this.folder, "data"), { recursive: true });
    await cp(join(this.folder, "backup"), join(this.folder, "data"), { recursive: true });
  }

  async remove(): Promise<void> {
    await this.stop();
    await rm(this.folder, { recursive: true, force: true });
  }

  /** The token of a user, who is made if need be. */
  async token(username: string): Promise<string> {
    const answer = await fetch(`${this.url}/token?username=${encodeURIComponent(username)}`);
    return ((await answer.json()) as { token: string }).token;
  }

  /** Request a route as a user. */
  async http(token: string, method: string, path: string, body?: object): Promise<Record<string, unknown>> {
    const answer = await fetch(`${this.url}${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${text}`);
    return text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
  }
}
