/** A bad network on loopback: a TCP proxy that cuts, refuses and swallows. */

import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";

export type Direction = "up" | "down";

export class Network {
  url = "";
  /** Pieces that have passed, in both directions. */
  passed = 0;
  private readonly target: URL;
  private readonly server: Server;
  private readonly links = new Set<Socket>();
  private refuses = false;
  private swallows: Direction | null = null;
  private cutAt = Number.POSITIVE_INFINITY;
  private readonly waiting = new Set<() => void>();

  private constructor(target: string) {
    this.target = new URL(target);
    this.server = createServer((client) => this.link(client));
  }

  static async before(target: string): Promise<Network> {
    const network = new Network(target);
    network.server.listen(0, "127.0.0.1");
    await once(network.server, "listening");
    network.url = `http://127.0.0.1:${(network.server.address() as { port: number }).port}`;
    return network;
  }

  /** Cut all connections. */
  cut(): void {
    for (const link of this.links) link.destroy();
  }

  /** Cut all connections, and every new one, until `heal`. */
  refuse(): void {
    this.refuses = true;
    this.cut();
  }

  /** Lose the bytes of a direction, until `heal`. */
  swallow(direction: Direction): void {
    this.swallows = direction;
  }

  /** Cut everything, once, before the piece of this number passes. */
  cutBefore(piece: number): void {
    this.passed = 0;
    this.cutAt = piece;
  }

  /** Everything passes on new connections; those whose bytes were lost are cut. */
  heal(): void {
    this.refuses = false;
    if (this.swallows !== null) this.cut();
    this.swallows = null;
  }

  async close(): Promise<void> {
    this.cut();
    this.server.close();
    await once(this.server, "close");
  }

  /** Resolves when the next piece arrives in a direction that is swallowed. */
  swallowed(): Promise<void> {
    return new Promise((resolve) => this.waiting.add(resolve));
  }

  private link(client: Socket): void {
    if (this.refuses) {
      client.destroy();
      return;
    }
    const server = connect(Number(this.target.port), this.target.hostname);
    for (const [from, to, direction] of [
      [client, server, "up"],
      [server, client, "down"],
    ] as const) {
      this.links.add(from);
      from.setNoDelay(true);
      from.on("data", (bytes) => {
        if (this.swallows === direction) {
          for (const wake of this.waiting) wake();
          this.waiting.clear();
          return;
        }
        this.passed++;
        if (this.passed >= this.cutAt) {
          this.cutAt = Number.POSITIVE_INFINITY;
          this.cut();
          return;
        }
        to.write(bytes);
      });
      from.on("error", () => undefined);
      from.on("close", () => {
        this.links.delete(from);
        to.destroy();
      });
    }
  }
}
