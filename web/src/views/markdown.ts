/** The part of Markdown that messages are written in, as a tree, and what of it may become a link. */
import type { Emphasis, Root } from "mdast";
import { findAndReplace } from "mdast-util-find-and-replace";
import { fromMarkdown, type Options } from "mdast-util-from-markdown";
import { gfmAutolinkLiteralFromMarkdown } from "mdast-util-gfm-autolink-literal";
import { gfmStrikethroughFromMarkdown } from "mdast-util-gfm-strikethrough";
import { newlineToBreak } from "mdast-util-newline-to-break";
import { gfmAutolinkLiteral } from "micromark-extension-gfm-autolink-literal";
import { gfmStrikethrough } from "micromark-extension-gfm-strikethrough";

declare module "mdast" {
  interface EmphasisData {
    /** It is the name of somebody who is mentioned: the reader, or another. */
    mention?: "mine" | "other";
  }
}

/** What the parser does not know here: it stays as it was typed. Indented code is none to the server either. */
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

/** A message's content as a tree (mdast), in which the names of those who are mentioned are marked. */
export function parsed(content: string, mentions: readonly string[], me: string): Root {
  const tree = fromMarkdown(content, SUBSET);
  newlineToBreak(tree);
  if (mentions.length > 0) mark(tree, mentions, me);
  return tree;
}

function mark(tree: Root, names: readonly string[], me: string): void {
  const longest = [...names].sort((one, other) => other.length - one.length).map(escaped);
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}@])@(${longest.join("|")})(?![\\p{L}\\p{N}_])`, "giu");
  const chip = (text: string, name: string): Emphasis => ({
    type: "emphasis",
    children: [{ type: "text", value: text }],
    data: { mention: name.toLowerCase() === me ? "mine" : "other" },
  });
  findAndReplace(tree, [pattern, chip], { ignore: ["link"] });
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\-]/g, "\\$&");
}

/** Where a link may lead: a message here as `#/room/…`, or somewhere else on the web or by mail. null: nowhere. */
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

/** Whether nothing in it could be Markdown, a link or a mention: it is shown as it is, without the parser. */
export function isPlain(content: string): boolean {
  return !/[\\`*_~[\]<>&@\n|]|:\/\/|^\s|^[-+#]|^\d+[.)]|www\./iu.test(content);
}

const EMOJI = /\p{RGI_Emoji}/gv;
const EMOJI_ONLY = /^(?:\p{RGI_Emoji}|\s)+$/v;

/** A few emoji and nothing else: shown larger. */
export function isEmojiOnly(content: string): boolean {
  if (content.length > 60 || !EMOJI_ONLY.test(content)) return false;
  const count = content.match(EMOJI)?.length ?? 0;
  return count > 0 && count <= 6;
}

/** Whether so much was written that it is folded until somebody asks for it. */
export function isLong(content: string): boolean {
  if (content.length > 1800) return true;
  let lines = 0;
  for (let at = content.indexOf("\n"); at >= 0; at = content.indexOf("\n", at + 1)) lines++;
  return lines > 24;
}
