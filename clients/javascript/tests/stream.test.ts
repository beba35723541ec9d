import fc from "fast-check";
import { expect, test, vi } from "vitest";
import { fromServer, isClosed, noAnswer } from "../src/errors.ts";
import { MessageStream, type StreamOptions } from "../src/stream.ts";
import { cutAndAdd, lengthOf } from "../src/text.ts";
import type { Message } from "../src/types.ts";
import { World } from "./support/world.ts";

const world = new World();

const points = fc.array(fc.constantFrom("a", "ñ", "😀", "\u0301", "\ud83d", " "), { maxLength: 12 });
const text = points.map((parts) => parts.join(""));

test("a reader cuts in code points", () => {
  expect(cutAndAdd("a😀b", 2, "c")).toBe("a😀c");
  expect(cutAndAdd("a😀b", 1, "")).toBe("a");
  expect(lengthOf("a😀b")).toBe(3);
  fc.assert(
    fc.property(text, fc.nat(15), text, (content, offset, added) => {
      expect(cutAndAdd(content, offset, added)).toBe([...content].slice(0, offset).join("") + added);
      expect(lengthOf(content)).toBe([...content].length);
    }),
  );
});

test("whatever appends are lost, repeated or joined, the last whole one brings the reader up to date", () => {
  fc.assert(
    fc.property(text, fc.array(fc.tuple(fc.nat(12), fc.nat(12))), (whole, pieces) => {
      const all = [...whole];
      let content = "";
      for (const [from, count] of pieces) {
        const offset = Math.min(from, lengthOf(content));
        content = cutAndAdd(content, offset, all.slice(offset, offset + count).join(""));
        expect(whole.startsWith(content)).toBe(true);
      }
      expect(cutAndAdd(content, 0, whole)).toBe(whole);
    }),
  );
});

/** What the server does with a streaming message, with a crash that takes exactly the text that is not durable. */
class Text {
  content: string[] = [];
  durable = 0;
  readonly faults: ("ok" | "lost" | "unanswered" | "crash")[];

  constructor(faults: Text["faults"]) {
    this.faults = faults;
  }

  readonly options: { -readonly [K in keyof StreamOptions]: StreamOptions[K] } = {
    open: async () => ({ id: "m", content: "" }) as Message,
    online: async () => undefined,
    ask: (async (action: string, request: { offset: number; text: string }) => {
      const fault = this.faults.shift() ?? "ok";
      if (fault === "lost") throw noAnswer("lost");
      if (fault === "crash") this.content.length = this.durable; // what was not durable is gone
      const { offset } = request;
      if (offset > this.content.length) throw this.conflict();
      if (action === "append") {
        this.content.splice(offset, this.content.length, ...request.text);
        if (fault !== "ok") throw noAnswer("no answer");
        if (this.faults.length % 3 === 0) this.durable = this.content.length;
        return { offset: this.content.length, stored: this.durable, stop: false };
      }
      if (offset !== this.content.length) throw this.conflict();
      if (fault !== "ok") throw noAnswer("no answer");
      return { id: "m", content: this.content.join(""), state: "complete" };
    }) as StreamOptions["ask"],
  };

  private conflict() {
    const details = { offset: this.content.length };
    return fromServer({ code: "conflict", message: "", details, retryable: false });
  }
}

test("what an author writes is in the message once, whatever is lost on the way", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(text, { maxLength: 6 }),
      fc.array(fc.constantFrom("ok" as const, "lost" as const, "unanswered" as const, "crash" as const), {
        maxLength: 2,
      }),
      async (parts, faults) => {
        // A lone surrogate joins the one that follows it, so they are written apart here.
        const written = parts.map((part) => part.replaceAll("\ud83d", "x"));
        const server = new Text([...faults]);
        const stream = await MessageStream.open(server.options);
        for (const part of written) await stream.write(part);
        const message = await stream.finish();
        expect(message.content).toBe(written.join(""));
      },
    ),
    { numRuns: 15, examples: [[["abc"], ["ok", "crash"]]] },
  );
});

test("a reader sees the text grow, and asks the author to stop", async () => {
  const topic = world.name("noticias");
  const author = await world.client(world.name("bot"));
  const reader = await world.client(world.name("omar"));
  await author.actions.create({ topic_name: topic });
  const room = await reader.join(topic);
  const timeline = await room.timeline();
  const stream = await author.room({ topic_name: topic }).stream();
  await stream.write("uno 😀 ");
  await stream.flush();
  await vi.waitFor(() => expect(timeline.state.messages[0]?.content).toBe("uno 😀 "), 10_000);
  const [opened] = timeline.state.messages as [Message];
  expect([opened.state, stream.stopped]).toEqual(["streaming", false]);
  await reader.actions.stop({ message_id: opened.id });
  await stream.write("dos");
  await stream.flush();
  expect(stream.stopped).toBe(true);
  const finished = await stream.finish({ data: { words: 2 } });
  expect(finished).toMatchObject({ content: "uno 😀 dos", data: { words: 2 }, state: "complete" });
  expect((await room.finished(opened)).content).toBe("uno 😀 dos");
  await vi.waitFor(() => expect(timeline.state.messages[0]).toMatchObject({ data: { words: 2 } }), 10_000);
});

test("an author hears that the message is gone", async () => {
  const topic = world.name("noticias");
  const author = await world.client(world.name("bot"));
  await author.actions.create({ topic_name: topic });
  const room = author.room({ topic_name: topic });
  const stream = await room.stream();
  await room.delete(stream.message.id);
  await stream.write("b");
  await expect(stream.flush()).rejects.toMatchObject({ code: "not_found" });
  await expect(stream.write("c")).rejects.toMatchObject({ code: "not_found" });
});

test("an author whose client is closed while text waits for a connection hears it from the next write", async () => {
  const stream = await MessageStream.open({
    open: async () => ({ id: "m", content: "" }) as Message,
    ask: () => Promise.reject(noAnswer("lost")),
    online: () => Promise.reject(isClosed()),
  });
  await stream.write("a");
  await vi.waitFor(() => expect(stream.write("b")).rejects.toMatchObject({ code: "closed" }), 10_000);
});
