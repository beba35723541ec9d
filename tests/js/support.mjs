// Shared by the scripts: the stock client, a deadline for every wait, and requests to the process that started them.
import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const DEADLINE_MS = 20_000;

/** The arguments of the script: `url`, `tokens` by username, and more. */
export const given = JSON.parse(process.argv[2]);

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Ask the starting process for something that a client cannot do, and wait until it is done. */
export async function please(what) {
  console.log(JSON.stringify({ please: what }));
  const { value, done } = await lines.next();
  assert.ok(!done, "nobody is there to do it");
  assert.equal(value, "done");
}

/** Reject if a promise takes too long, with its description. */
export function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited too long for ${what}`)), DEADLINE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The first emission of an event; its arguments. */
export function once(emitter, event, where = () => true) {
  return within(
    new Promise((resolve) => {
      const listener = (...args) => {
        if (where(...args)) {
          emitter.off(event, listener);
          resolve(args);
        }
      };
      emitter.on(event, listener);
    }),
    event,
  );
}

/** One stock socket, and its received events in order. It sends its current cursors at each connect. */
export class Client {
  constructor(token, options = {}) {
    this.events = [];
    this.rooms = {};
    this.cursors = {};
    this.brought = [];
    this.waiting = new Set();
    this.socket = io(given.url, {
      forceNew: true,
      reconnectionDelay: 50,
      reconnectionDelayMax: 200,
      auth: (give) => {
        this.brought.push({ ...this.cursors });
        give({ token, device: "laptop", cursors: this.cursors });
      },
      ...options,
    });
    this.socket.onAny((event, payload) => {
      this.events.push([event, payload]);
      if (event === "message") (this.rooms[payload.room_id] ??= []).push(payload);
      if (payload.room_id && payload.seq) {
        this.cursors[payload.room_id] = payload.seq;
      }
      for (const look of this.waiting) look();
    });
  }

  of(event) {
    return this.events.filter(([name]) => name === event).map(([, payload]) => payload);
  }

  messages(room_id) {
    return this.rooms[room_id] ?? [];
  }

  contents(room_id) {
    return this.messages(room_id).map((message) => message.content);
  }

  /** Wait until a condition on the received events holds. */
  until(condition, what) {
    return within(
      new Promise((resolve) => {
        const look = () => {
          if (condition()) {
            this.waiting.delete(look);
            resolve();
          }
        };
        this.waiting.add(look);
        look();
      }),
      what,
    );
  }

  async ready(times = 1) {
    await this.until(() => this.of("ready").length >= times, `ready, ${times} times`);
    return this;
  }

  /** Perform an action; returns its data, fails if it is refused. */
  async ask(action, payload = {}) {
    const answer = await within(this.socket.emitWithAck(action, payload), action);
    assert.ok(answer.ok, `${action}: ${JSON.stringify(answer)}`);
    return answer.data;
  }

  /** Perform an action that must be refused; returns the error code. */
  async refused(action, payload) {
    const answer = await within(this.socket.emitWithAck(action, payload), action);
    assert.equal(answer.ok, false);
    return answer.error.code;
  }

  /** Send a message until it is acknowledged, over restarts; `client_id` makes it take effect once. */
  async deliver(room_id, content) {
    for (;;) {
      const connected = this.socket.connected;
      const answer = await this.socket
        .timeout(DEADLINE_MS)
        .emitWithAck("message", { room_id, content, client_id: content })
        .catch(() => null);
      if (answer?.ok) return answer.data;
      if (answer !== null) {
        assert.ok(answer.error.retryable, JSON.stringify(answer));
        if (connected && this.socket.connected) await once(this.socket, "disconnect");
      }
      if (!this.socket.connected) await once(this.socket, "connect");
    }
  }

  close() {
    this.socket.disconnect();
  }
}

export { assert };
