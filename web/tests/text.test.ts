import { expect, test } from "vitest";
import { plainOf, plainSnippet } from "../src/text.ts";

test("a message on one line is shown without its markup", () => {
  for (const [content, shown] of [
    ["> a quote\n- one\n- two", "a quote one two"],
    ["# Heading\n\nwords", "Heading words"],
    ["| a | b |\n|---|:-:|\n| 1 | 2 |", "a b 1 2"],
    ["**bold** and `code` and [a link](https://example.org)", "bold and code and a link"],
    [
      "#release is not a heading, a | b no table, 1 -- 2 no line",
      "#release is not a heading, a | b no table, 1 -- 2 no line",
    ],
    ["--", "--"],
  ] as const)
    expect(plainOf(content, 120)).toBe(shown);
});

test("a snippet is shown without its markup, and keeps its matches", () => {
  const of = (...parts: string[]) =>
    plainSnippet(parts.map((text, at) => ({ text, match: at % 2 === 1 })))
      .map(({ text, match }) => (match ? `<${text}>` : text))
      .join("");
  expect(of("> the **re", "lease", "** of `", "v2", "` is [", "here", "](https://example.org)")).toBe(
    "the re<lease> of <v2> is <here>",
  );
  expect(of("", "plain", " words")).toBe("<plain> words");
});
