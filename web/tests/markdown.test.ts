import { createElement } from "react";
import { renderToStaticMarkup } from "react-dom/server";
import { expect, test } from "vitest";
import { Content } from "../src/views/Markdown.tsx";
import {
  hasTable,
  isEmojiOnly,
  isLong,
  isPlain,
  linkTarget,
  parsed,
  visibleIfFolded,
} from "../src/views/markdown.ts";
import { TABLES } from "../src/views/tables.ts";
import { HARDEST, HOSTILE } from "./hostile.ts";

const HERE = "https://chat.example/";

function html(content: string, mentions: string[] = [], me = "me"): string {
  return renderToStaticMarkup(createElement(Content, { content, mentions, me, here: HERE }));
}

test.each([
  ["**strong** _emphasis_ ~~gone~~", "<p><strong>strong</strong> <em>emphasis</em> <del>gone</del></p>"],
  ["`code <b>`", "<p><code>code &lt;b&gt;</code></p>"],
  ["one\ntwo", "<p>one<br/>two</p>"],
  ["> quoted", "<blockquote><p>quoted</p></blockquote>"],
  ["- one\n- two", "<ul><li>one</li><li>two</li></ul>"],
  ["~one~", "<p>~one~</p>"],
])("the subset: %j", (content, shown) => {
  expect(html(content)).toBe(shown);
});

test.each([
  "# heading",
  "heading\n===",
  "<b>html</b>",
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "| a | b |\n|---|---|\n| 1 | 2 |",
  "[^1]: a footnote",
  "[ref]: /here",
  "***",
  "- [x] done",
  "    not code",
])("what is not in the subset keeps its text and makes no element of its own: %j", (content) => {
  const shown = html(content);
  expect(shown).not.toMatch(/<(?!\/?(?:p|br|ul|li)\b)/);
  const text = shown
    .replace(/<[^>]*>/g, "")
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">")
    .replaceAll("&amp;", "&");
  const words = (of: string) => of.match(/[\p{L}\p{N}]+/gu) ?? [];
  expect(words(text)).toEqual(words(content));
});

test("an image is a link, and loads nothing", () => {
  const shown = html("![cat](https://example.org/cat.png)");
  expect(shown).not.toContain("<img");
  expect(shown).toContain('href="https://example.org/cat.png"');
});

test.each([
  "javascript:alert(1)",
  "JaVaScRiPt:alert(1)",
  "data:text/html,x",
  "vbscript:x",
  "file:///etc/passwd",
  "/api/me",
  "//evil.example",
])("a link to %s is text", (href) => {
  expect(html(`[here](${href})`)).toBe("<p>here</p>");
  expect(html(`[here](<${href}>)`)).toBe("<p>here</p>");
});

test("a link opens a new tab without a referrer", () => {
  expect(html("https://example.org/a")).toBe(
    '<p><a href="https://example.org/a" title="https://example.org/a" target="_blank" rel="noopener noreferrer nofollow">https://example.org/a</a></p>',
  );
});

test("a link to a message of this client opens inside", () => {
  expect(html("see https://chat.example/#/room/abc/7")).toBe(
    '<p>see <a href="#/room/abc/7">https://chat.example/#/room/abc/7</a></p>',
  );
  expect(linkTarget("https://other.example/#/room/abc/7", HERE)).toBe("https://other.example/#/room/abc/7");
  expect(linkTarget("https://chat.example/api/me", HERE)).toBe("https://chat.example/api/me");
  expect(linkTarget("mailto:ana@example.org", HERE)).toBe("mailto:ana@example.org");
});

test("a character reference stays as typed, even in a link", () => {
  expect(html("a &amp; b &#65; &copy;")).toBe("<p>a &amp;amp; b &amp;#65; &amp;copy;</p>");
  expect(html("[x](https://example.org/?a&copy;b)")).toContain('href="https://example.org/?a&amp;copy;b"');
});

test("only real mentions become chips, once, completely, and never in code", () => {
  expect(html("@ana @anabel @Me `@ana`", ["ana", "me"])).toBe(
    '<p><span class="mention other">@ana</span> @anabel <span class="mention mine">@Me</span> <code>@ana</code></p>',
  );
  expect(html("@brianyork @ana", ["BrianYork", "Ana"], "BrianYork")).toBe(
    '<p><span class="mention mine">@brianyork</span> <span class="mention other">@ana</span></p>',
  );
  expect(html("@a.b+c and mail@ana", ["a.b+c", "ana"])).toBe(
    '<p><span class="mention other">@a.b+c</span> and mail@ana</p>',
  );
});

/** ms of the processor */
function worked(work: () => void): number {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

test.each(Object.entries({ ...HOSTILE, ...HARDEST }))(
  "whatever markup a message has, it is rendered in a moment and keeps its text: %s",
  (_, content) => {
    let shown = "";
    const least = Math.min(...[1, 2].map(() => worked(() => (shown = html(content, ["ana"])))));
    expect(least).toBeLessThan(800);
    const letters = (text: string) => text.replace(/[^abw]/g, "").length;
    // What is in a tag, or in a reference, was not written.
    const text = shown.replace(/<[^>]*>/g, "").replace(/&(?:amp|lt|gt|quot);/g, "");
    expect(letters(text)).toBe(letters(content.replace(/\]\(http:[^)]*\)|^ *```.*$/gm, "")));
  },
);

test("a table of as many cells as the parser takes on is parsed in a moment, and one of more is shown as typed", () => {
  const table = (rows: number) => `|a|b|c|\n|:-|-|-:|\n${"|a|**b**|c|\n".repeat(rows)}`;
  expect(hasTable(table(1))).toBe(true);
  for (const no of ["a | b\n", "---\n|", "a\n- | b", "| a |\n| b |"]) expect(hasTable(no)).toBe(false);
  let tree: ReturnType<typeof parsed> = null;
  const least = Math.min(...[1, 2].map(() => worked(() => (tree = parsed(table(130), [], "me", TABLES)))));
  expect(least).toBeLessThan(800);
  expect(tree).toMatchObject({ children: [{ type: "table", align: ["left", null, "right"] }] });
  expect(parsed(table(400), [], "me", TABLES)).toBe(null);
});

test("quotes and lists nest twenty levels; deeper ones are shown as typed", () => {
  expect(html(`${">".repeat(20)}a`).match(/<blockquote>/g)).toHaveLength(20);
  expect(html(`${"- ".repeat(20)}a`).match(/<ul>/g)).toHaveLength(20);
  expect(html(`${">".repeat(21)}a`)).toBe(`<p class="as-typed">${"&gt;".repeat(21)}a</p>`);
  const indented = Array.from({ length: 30 }, (_, at) => `${"  ".repeat(at)}- a`).join("\n");
  expect(html(indented)).toBe(`<p class="as-typed">${indented}</p>`);
});

test("a long text with ordinary markup, and long code in a block, are formatted", () => {
  const text =
    "A sentence with **strong** words, `code`, and https://example.org/a_b.\n\n- an item\n- another one\n\n";
  expect(parsed(text.repeat(55), [], "me")).not.toBeNull();
  const code = "const value_of_it = [...list_of_them].map((one) => *one & other_one);\n";
  expect(parsed(`So:\n\n\`\`\`js\n${code.repeat(230)}\`\`\`\nThat is **it**.`, [], "me")).not.toBeNull();
});

test.each(["hello", "10:30: it took 3 minutes; fine?", "¡Buenos días!", "a (b) 'c' 🙂"])(
  "%j needs no parser",
  (content) => {
    expect(isPlain(content)).toBe(true);
    expect(html(content)).toBe(`<p>${content.replaceAll("'", "&#x27;")}</p>`);
  },
);

test.each(["- a", "1. a", "www.example.org", "a@b.org", "http://x", "a\nb", "*a*", "> a", "+ a", "&amp;"])(
  "%j goes through the parser",
  (content) => {
    expect(isPlain(content)).toBe(false);
  },
);

test("a few emoji alone are large", () => {
  expect(isEmojiOnly("🎉")).toBe(true);
  expect(isEmojiOnly("👩‍👩‍👧‍👦 🇪🇸 👍🏽")).toBe(true);
  expect(isEmojiOnly("🎉 yes")).toBe(false);
  expect(isEmojiOnly("12")).toBe(false);
  expect(isEmojiOnly("🎉".repeat(7))).toBe(false);
  expect(isEmojiOnly(" ")).toBe(false);
});

test("long messages are folded: many lines, or much text", () => {
  expect(isLong("a\n".repeat(25))).toBe(true);
  expect(isLong("a".repeat(1801))).toBe(true);
  expect(isLong("a\n".repeat(20))).toBe(false);
});

test("a folded message shows its beginning, without a split character", () => {
  expect(visibleIfFolded("a".repeat(1900))).toBe("a".repeat(1900));
  expect(visibleIfFolded("a\n".repeat(8000)).length).toBeLessThan(130);
  expect(visibleIfFolded("🙂".repeat(8000))).toBe("🙂".repeat(2000));
  expect(visibleIfFolded(`a${"🙂".repeat(8000)}`)).toBe(`a${"🙂".repeat(1999)}`);
});

test("a code block that is still open is code to its end", () => {
  for (const content of ["Look:\n\n```\none", "Look:\n\n```py\none\n", "Look:\n\n```\none\n``"])
    expect(parsed(content, [], "me")?.children.map(({ type }) => type)).toEqual(["paragraph", "code"]);
});
