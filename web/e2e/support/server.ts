/** A real `tidings serve`, to be killed and started again on the same data and address. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

export const REPOSITORY = fileURLToPath(new URL("../../..", import.meta.url));
export const PYTHON = process.env.TIDINGS_PYTHON ?? join(REPOSITORY, ".venv/bin/python");
const STARTED_WITHIN = 110_000;

export class Server {
  readonly data: string;
  url = "";
  private process: ChildProcess | null = null;
  private port = "0";
  private said = "";

  private readonly settings: Record<string, string>;

  private readonly options: readonly string[];

  private constructor(data: string, settings: Record<string, string>, options: readonly string[]) {
    this.data = data;
    this.settings = settings;
    this.options = options;
  }

  static async start(settings: Record<string, string> = {}, ...options: readonly string[]): Promise<Server> {
    if (!existsSync(join(REPOSITORY, "server/tidings/static/index.html")))
      throw new Error("the page is not built: make web");
    const server = new Server(await mkdtemp(join(tmpdir(), "tidings-browser-")), settings, options);
    await server.start();
    return server;
  }

  get pid(): number {
    if (this.process?.pid === undefined) throw new Error("it does not run");
    return this.process.pid;
  }

  /** Serve, on the port of the time before if there was one; returns when it listens. */
  async start(): Promise<void> {
    const command = ["-m", "tidings", "serve", "--host", "127.0.0.1", "--port", this.port, ...this.options];
    const started = spawn(PYTHON, command, {
      cwd: REPOSITORY,
      env: environment({
        TIDINGS_DATA_DIR: this.data,
        TIDINGS_DEV_TOKENS: "true",
        TIDINGS_LINK_PREVIEWS: "off", // no test asks the Internet
        TIDINGS_LOG_LEVEL: "warning",
        TIDINGS_PUBLIC_CHANNEL: "entry",
        TIDINGS_RATE_LIMITS: "off",
        ...this.settings,
      }),
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.process = started;
    started.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.said += text;
    });
    const lines = createInterface({ input: started.stdout });
    this.url = await new Promise<string>((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`it did not start in time: ${this.said}`)), STARTED_WITHIN);
      started.once("error", reject);
      started.once("exit", (status) => reject(new Error(`it ended with ${status}: ${this.said}`)));
      lines.on("line", (line) => {
        const found = /http:\/\/127\.0\.0\.1:(\d+)/.exec(line);
        if (found?.[1] === undefined) return;
        clearTimeout(late);
        this.port = found[1];
        resolve(found[0]);
      });
    });
  }

  /** Serve again, if a test ended while nothing was served. */
  async resume(): Promise<void> {
    if (this.process === null) await this.start();
  }

  /** The link that `tidings invite` prints. */
  async command(...words: readonly string[]): Promise<string> {
    const env = environment({ TIDINGS_DATA_DIR: this.data });
    return (await promisify(execFile)(PYTHON, ["-m", "tidings", ...words], { cwd: REPOSITORY, env })).stdout.trim();
  }

  /** SIGKILL: no chance to clean up. Returns when it is gone. */
  async kill(): Promise<void> {
    await this.end("SIGKILL");
  }

  /** SIGTERM: it says goodbye. Returns when it is gone. */
  async stop(): Promise<void> {
    const status = await this.end("SIGTERM");
    if (status !== 0) throw new Error(`it ended with ${status}: ${this.said}`);
  }

  /** End it for good, with its data. Raises if it ever complained. */
  async remove(): Promise<void> {
    if (this.process !== null) await this.stop();
    await rm(this.data, { recursive: true, force: true });
    if (this.said !== "") throw new Error(`the server complained:\n${this.said}`);
  }

  private async end(signal: NodeJS.Signals): Promise<number | null> {
    const running = this.process;
    this.process = null;
    if (running === null) throw new Error("it does not run");
    if (running.exitCode !== null) return running.exitCode;
    const gone = once(running, "close");
    running.kill(signal);
    const [status] = (await gone) as [number | null];
    return status;
  }
}

/** What a Python process of ours gets: no setting of the person who runs the tests. */
export function environment(added: Record<string, string>): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("TIDINGS_"));
  return { ...Object.fromEntries(inherited), ...added };
}
