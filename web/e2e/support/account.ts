/** A user as a program: asks what a page would be too slow for, and is somebody who has no page. */
import { io, type Socket } from "socket.io-client";
import type { Actions, Answer, Events, History, Message } from "../../src/contract.gen.ts";

export const PASSWORD = "correct horse";
const ANSWER_WITHIN = 30_000;
const PAGE = 200;

export class Account {
  readonly url: string;
  readonly name: string;
  readonly token: string;
  private socket: Promise<Socket> | null = null;

  constructor(url: string, name: string, token: string) {
    this.url = url;
    this.name = name;
    this.token = token;
  }

  /** A user without a password: hashing one for each would take longer than the tests. */
  static async create(url: string, name: string): Promise<Account> {
    const answer = await fetch(`${url}/token?username=${encodeURIComponent(name)}`);
    const { token } = (await answered(answer)) as { token: string };
    return new Account(url, name, token);
  }

  /** The data of the answer; raises what the server refuses. */
  async ask<A extends keyof Actions>(action: A, request: Actions[A]["request"]): Promise<Actions[A]["response"]> {
    const socket = await this.connected();
    const answer = (await socket.timeout(ANSWER_WITHIN).emitWithAck(action, request)) as Answer<
      Actions[A]["response"]
    >;
    if (!answer.ok) throw new Error(`${action} ${JSON.stringify(request).slice(0, 300)}: ${answer.error.message}`);
    return answer.data;
  }

  /** Make a topic; answers its id. */
  async topic(topic_name: string, is_private = false): Promise<string> {
    return (await this.ask("create", { topic_name, is_private })).room_id;
  }

  async join(topic_name: string): Promise<void> {
    await this.ask("subscribe", { topic_name });
  }

  say(room_id: string, content: string): Promise<Message> {
    return this.ask("message", { room_id, content });
  }

  /** The next event of this kind that fits. */
  async event<E extends keyof Events>(kind: E, fits: (data: Events[E]) => boolean): Promise<Events[E]> {
    const socket = await this.connected();
    return new Promise((resolve) => {
      const listener = (data: Events[E]) => {
        if (!fits(data)) return;
        socket.off(kind as string, listener);
        resolve(data);
      };
      socket.on(kind as string, listener);
    });
  }

  /** All messages of a room, as the log has them, over HTTP. */
  async history(room_id: string): Promise<Message[]> {
    const messages: Message[] = [];
    let more = true;
    while (more) {
      const after = messages.at(-1)?.seq ?? 0;
      const answer = await fetch(`${this.url}/api/messages?room_id=${room_id}&after=${after}&limit=${PAGE}`, {
        headers: { authorization: `Bearer ${this.token}` },
      });
      const page = (await answered(answer)) as History;
      messages.push(...page.messages);
      more = page.has_more;
    }
    return messages;
  }

  /** End its connection, if it has one. */
  async leave(): Promise<void> {
    (await this.socket)?.disconnect();
    this.socket = null;
  }

  private connected(): Promise<Socket> {
    this.socket ??= new Promise((resolve, reject) => {
      const socket = io(this.url, {
        auth: { token: this.token, device: "program" },
        transports: ["websocket"],
        forceNew: true,
        reconnection: false,
      });
      socket.once("ready", () => resolve(socket));
      socket.once("connect_error", reject);
    });
    return this.socket;
  }
}

async function answered(answer: Response): Promise<unknown> {
  if (!answer.ok) throw new Error(`${answer.url}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}
