import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll } from "vitest";
import type { Client } from "../../src/client.ts";
import { type ConnectOptions, connect, type Message, type Room, type Status } from "../../src/node.ts";
import { Network } from "./network.ts";
import { Server } from "./server.ts";

let made = 0;

/** A server for all tests of a file; for each test a network before it, and everything that it opened. */
export class World {
  server!: Server;
  network!: Network;
  folder = "";
  readonly cleanups: (() => Promise<void>)[] = [];

  constructor(settings: Record<string, string> = {}) {
    beforeAll(async () => {
      this.server = await Server.start(settings);
    });
    afterAll(() => this.server.remove());
    afterEach(async () => {
      for (const cleanup of this.cleanups.splice(0).reverse()) await cleanup();
    });
  }

  /** A name that no other test uses. */
  name(base: string): string {
    made += 1;
    return `${base}${made}x${process.pid}`;
  }

  async bad(): Promise<Network> {
    this.network = await Network.before(this.server.url);
    const { network } = this;
    this.cleanups.push(() => network.close());
    return this.network;
  }

  async path(name = "state.db"): Promise<string> {
    const folder = await mkdtemp(join(tmpdir(), "tidings-store-"));
    this.cleanups.push(() => rm(folder, { recursive: true, force: true }));
    return join(folder, name);
  }

  async client<E = Record<never, never>>(
    username: string,
    options: Partial<ConnectOptions> & { url?: string } = {},
  ): Promise<Client<E>> {
    const { url = this.server.url, ...rest } = options;
    const client = await connect<E>(url, { token: () => this.server.token(username), ...rest });
    this.cleanups.push(() => client.close());
    return client;
  }

  /** What a topic's log has, as another member reads it. */
  async logOf(topic_name: string): Promise<string[]> {
    const token = await this.server.token(this.name("reader"));
    await this.server.http(token, "POST", "/api/subscriptions", { topic_name });
    const query = `topic_name=${encodeURIComponent(topic_name)}&limit=200`;
    const { messages } = (await this.server.http(token, "GET", `/api/messages?${query}`)) as { messages: Message[] };
    return messages.map(({ content }) => content);
  }
}

/** Reads messages in the background. */
export class Reader {
  readonly received: string[] = [];
  private readonly waiting = new Set<() => void>();
  readonly ended: Promise<void>;

  constructor(room: Pick<Room, "messages">, consumer = "default") {
    this.ended = this.read(room, consumer);
  }

  /** Resolves when so many were received. */
  async count(count: number): Promise<string[]> {
    while (this.received.length < count) await new Promise<void>((resolve) => this.waiting.add(resolve));
    return this.received;
  }

  private async read(room: Pick<Room, "messages">, consumer: string): Promise<void> {
    for await (const { content } of room.messages({ consumer })) {
      this.received.push(content);
      for (const wake of this.waiting) wake();
      this.waiting.clear();
    }
  }
}

/** Resolves when a client's status is of this kind, from now on. */
export function statusOf(
  client: { onStatus: Client["onStatus"]; status: Status },
  is: Status["is"],
): Promise<Status> {
  return new Promise((resolve) => {
    if (client.status.is === is) resolve(client.status);
    const stop = client.onStatus((status) => {
      if (status.is !== is) return;
      stop();
      resolve(status);
    });
  });
}
