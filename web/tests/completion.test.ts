import { expect, test } from "vitest";
import { closedAt, completed, matching, triggerAt } from "../src/views/completion.ts";

test.each([
  ["hi @an", { kind: "@", query: "an", at: 3 }],
  ["@", { kind: "@", query: "", at: 0 }],
  ["(@an", { kind: "@", query: "an", at: 1 }],
  ["nice :tad", { kind: ":", query: "tad", at: 5 }],
  [":+1", { kind: ":", query: "+1", at: 0 }],
])("%j can be completed", (text, trigger) => {
  expect(triggerAt(text, text.length)).toEqual(trigger);
});

test.each(["ana@exa", "at 10:30", "so :)", ":D", "http://x", "@ana ", "a: b"])("%j is not completed", (text) => {
  expect(triggerAt(text, text.length)).toBeNull();
});

test("a completion replaces the typed word, followed by a space and the caret", () => {
  const text = "hi @an, look";
  const trigger = triggerAt(text, 6);
  expect(trigger && completed(text, trigger, "@ana")).toEqual({ text: "hi @ana , look", caret: 8 });
  const before = "hi @an look";
  const second = triggerAt(before, 6);
  expect(second && completed(before, second, "@ana")).toEqual({ text: "hi @ana look", caret: 8 });
});

test("a short name with both colons is found, except in code", () => {
  const found = (text: string) => closedAt(text, text.length)?.query ?? null;
  expect(["so :tada:", ":+1:", "`a :tada:", "`a` :tada:", "10:30:", "a:b:"].map(found)).toEqual([
    "tada",
    "+1",
    null,
    "tada",
    null,
    null,
  ]);
});

test("the name itself comes before those that begin with it, and they before other matches", () => {
  expect(matching(["hearts", "green_heart", "heart"], "heart", (name) => name, 2)).toEqual(["heart", "hearts"]);
  expect(matching(["diana", "ana", "anabel", "omar"], "AN", (name) => name, 3)).toEqual(["ana", "anabel", "diana"]);
});
