import { createElement } from "react";
import { renderToStaticMarkup } from "react-dom/server";
import { expect, test } from "vitest";
import { Content } from "../src/views/Markdown.tsx";
import { isEmojiOnly, isLong, isPlain, linkTarget } from "../src/views/markdown.ts";

const HERE = "https://chat.example/";

function html(content: string, mentions: string[] = []): string {
  return renderToStaticMarkup(createElement(Content, { content, mentions, me: "me", here: HERE }));
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

test("a link leaves the page in a new tab, and says nothing of where it came from", () => {
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

test("a character reference stays as it was typed, in a link, too", () => {
  expect(html("a &amp; b &#65; &copy;")).toBe("<p>a &amp;amp; b &amp;#65; &amp;copy;</p>");
  expect(html("[x](https://example.org/?a&copy;b)")).toContain('href="https://example.org/?a&amp;copy;b"');
});

test("only who is mentioned is a chip, once, in whole, and never in code", () => {
  expect(html("@ana @anabel @Me `@ana`", ["ana", "me"])).toBe(
    '<p><span class="mention other">@ana</span> @anabel <span class="mention mine">@Me</span> <code>@ana</code></p>',
  );
  expect(html("@a.b+c and mail@ana", ["a.b+c", "ana"])).toBe(
    '<p><span class="mention other">@a.b+c</span> and mail@ana</p>',
  );
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

test("what is long is folded: many lines, or much text", () => {
  expect(isLong("a\n".repeat(25))).toBe(true);
  expect(isLong("a".repeat(1801))).toBe(true);
  expect(isLong("a\n".repeat(20))).toBe(false);
});
