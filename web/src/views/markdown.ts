/** Parses the Markdown subset of messages, and decides which links are allowed. */
import type { Emphasis, Nodes, Root } from "mdast";
import { findAndReplace } from "mdast-util-find-and-replace";
import { fromMarkdown, type Options } from "mdast-util-from-markdown";
import { gfmAutolinkLiteralFromMarkdown } from "mdast-util-gfm-autolink-literal";
import { gfmStrikethroughFromMarkdown } from "mdast-util-gfm-strikethrough";
import { newlineToBreak } from "mdast-util-newline-to-break";
import { gfmAutolinkLiteral } from "micromark-extension-gfm-autolink-literal";
import { gfmStrikethrough } from "micromark-extension-gfm-strikethrough";

declare module "mdast" {
  interface EmphasisData {
    /** A mention of the reader, or of another user. */
    mention?: "mine" | "other";
  }
}

/** Syntax that is off, and so stays as typed. The server does not treat indented text as code either. */
const UNKNOWN = [
  "characterReference",
  "codeIndented",
  "definition",
  "headingAtx",
  "htmlFlow",
  "htmlText",
  "labelStartImage",
  "setextUnderline",
  "thematicBreak",
];

const SUBSET: Options = {
  extensions: [gfmAutolinkLiteral(), gfmStrikethrough({ singleTilde: false }), { disable: { null: UNKNOWN } }],
  mdastExtensions: [gfmAutolinkLiteralFromMarkdown(), gfmStrikethroughFromMarkdown()],
};

/** More of the syntax */
export interface Syntax {
  readonly extension: NonNullable<Options["extensions"]>[number];
  readonly mdastExtension: NonNullable<Options["mdastExtensions"]>[number];
}

/** Whether a content may have a table: it has a line of bars and dashes. */
export function hasTable(content: string): boolean {
  const isRule = (line: string) => line.includes("-") && line.includes("|") && /^[|:\- \t]+$/.test(line);
  return content.includes("|") && content.split("\n").some((line) => isRule(line.trim()));
}

/** The nesting limit of quotes and lists; deeper ones would overflow the stack of the parser and the renderer. */
const MAX_NESTING = 20;
/** Bounds the time to parse a message: see `costOf`. Prose and code of 16,384 characters stay well below it. */
const MAX_COST = 2000;

/**
 * Parse a message into a tree (mdast) with its mentions marked. null: it nests too
 * deeply or would take too long to parse, and is shown as typed.
 */
export function parsed(content: string, mentions: readonly string[], me: string, more?: Syntax): Root | null {
  if (costOf(content) > MAX_COST) return null;
  const tree = fromMarkdown(content, more === undefined ? SUBSET : extended(more));
  // Before anything that visits the tree by recursion.
  if (isDeeper(tree, MAX_NESTING)) return null;
  newlineToBreak(tree);
  if (mentions.length > 0) mark(tree, mentions, me);
  return tree;
}

function extended({ extension, mdastExtension }: Syntax): Options {
  return {
    extensions: [extension, ...(SUBSET.extensions ?? [])],
    mdastExtensions: [mdastExtension, ...(SUBSET.mdastExtensions ?? [])],
  };
}

/** A quote or list marker at the beginning of a line */
const CONTAINER = /[ \t]*(?:>|[-+*](?=[ \t]|$)|\d{1,9}[.)](?=[ \t]|$))[ \t]?/y;
const FENCE = /^(`{3,}(?=[^`]*$)|~{3,})/;
const FENCE_ELSEWHERE = /^[\s>*+\-\d.)]+(?:`{3}|~{3})/;
/** The parser's time grows with the square of the number of emphasis marks, and of `&` in an address. */
const COSTS: Readonly<Record<string, number>> = {
  "*": 2,
  _: 2,
  "~": 2,
  "&": 10,
  "`": 1,
  "[": 1,
  "]": 1,
  "<": 1,
  "@": 3,
  ":": 3,
  ".": 1,
  "\\": 1,
  "|": 1,
};

/** An estimate of the parser's work, in one linear pass. Infinity: the content nests too deeply. */
function costOf(content: string): number {
  const lines = content.split(/\r\n?|\n/);
  // Markup in a code block costs nothing. Where the extent of a block is unclear, all of it counts.
  const seesFences = !lines.some((line) => FENCE_ELSEWHERE.test(line));
  let fence: string | null = null;
  let cost = 2 * lines.length;
  for (const line of lines) {
    const mark: string | undefined = FENCE.exec(line)?.[1];
    if (fence !== null) {
      if (mark?.startsWith(fence) && /^[ \t]*$/.test(line.slice(mark.length))) fence = null;
      continue;
    }
    if (mark !== undefined && seesFences) {
      fence = mark;
      continue;
    }
    let nesting = 0;
    for (CONTAINER.lastIndex = 0; CONTAINER.test(line); nesting++) cost += 2;
    // Lists nest by their indentation, too.
    if (nesting > 0) cost += line.search(/\S/) >> 2;
    if (nesting > MAX_NESTING) return Number.POSITIVE_INFINITY;
    for (const character of line) cost += COSTS[character] ?? 0;
    if (cost > MAX_COST) return cost;
  }
  return cost;
}

function isDeeper(tree: Root, most: number): boolean {
  let level: readonly Nodes[] = [tree];
  for (let depth = 0; level.length > 0; depth++) {
    // A list is two levels, the list and its item, and each level contains text.
    if (depth > 2 * most + 4) return true;
    level = level.flatMap((node) => ("children" in node ? node.children : []));
  }
  return false;
}

function mark(tree: Root, names: readonly string[], me: string): void {
  const longest = [...names].sort((one, other) => other.length - one.length).map(escaped);
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}@])@(${longest.join("|")})(?![\\p{L}\\p{N}_])`, "giu");
  const chip = (text: string, name: string): Emphasis => ({
    type: "emphasis",
    children: [{ type: "text", value: text }],
    data: { mention: name.toLowerCase() === me.toLowerCase() ? "mine" : "other" },
  });
  findAndReplace(tree, [pattern, chip], { ignore: ["link"] });
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\-]/g, "\\$&");
}

/** The allowed target of a link: a message here (`#/room/…`), a web page, or a mail address. null: no link. */
export function linkTarget(href: string, here: string): string | null {
  if (href.startsWith("#/room/")) return href;
  let url: URL;
  try {
    url = new URL(href);
  } catch {
    return null;
  }
  if (url.protocol === "mailto:") return url.href;
  if (url.protocol !== "http:" && url.protocol !== "https:") return null;
  const page = new URL(here);
  if (url.origin === page.origin && url.pathname === page.pathname && url.hash.startsWith("#/room/")) return url.hash;
  return url.href;
}

/** Whether a content has no Markdown, link or mention, and needs no parser. */
export function isPlain(content: string): boolean {
  return !/[\\`*_~[\]<>&@\n|]|:\/\/|^\s|^[-+#]|^\d+[.)]|www\./iu.test(content);
}

const EMOJI = /\p{RGI_Emoji}/gv;
const EMOJI_ONLY = /^(?:\p{RGI_Emoji}|\s)+$/v;

/** Whether a content is only a few emoji, which are shown larger. */
export function isEmojiOnly(content: string): boolean {
  if (content.length > 60 || !EMOJI_ONLY.test(content)) return false;
  const count = content.match(EMOJI)?.length ?? 0;
  return count > 0 && count <= 6;
}

/** Whether a content is long enough to be folded. */
export function isLong(content: string): boolean {
  if (content.length > 1800) return true;
  let lines = 0;
  for (let at = content.indexOf("\n"); at >= 0; at = content.indexOf("\n", at + 1)) lines++;
  return lines > 24;
}

/** The part of a folded content that is rendered: a little more than is visible, so that rooms open quickly. */
export function visibleIfFolded(content: string): string {
  let end = 0;
  for (let lines = 0; lines < 60 && end >= 0; lines++) end = content.indexOf("\n", end + 1);
  const most = Math.min(4000, end < 0 ? content.length : end);
  // Do not split a surrogate pair.
  return content.slice(0, /[\uD800-\uDBFF]/.test(content.charAt(most - 1)) ? most - 1 : most);
}
