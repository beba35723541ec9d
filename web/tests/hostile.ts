/** Messages of the greatest length that a Markdown parser has much work with, or that nest without end. */
const LONGEST = 16_384;

const filled = (unit: string, before = "") =>
  before + unit.repeat(Math.ceil(LONGEST / unit.length)).slice(0, LONGEST - before.length);
const lines = (line: (at: number) => string) =>
  Array.from({ length: 2000 }, (_, at) => line(at))
    .join("\n")
    .slice(0, LONGEST);

export const HOSTILE: Readonly<Record<string, string>> = {
  quotes: filled(">"),
  "quotes with spaces": filled("> "),
  "quotes with tabs": filled(">\t"),
  bullets: filled("- "),
  "bullets with tabs": filled("\t- "),
  numbers: filled("1. "),
  "quotes and bullets in turn": filled("> - "),
  "a quote that deepens": lines((at) => ">".repeat(at + 1)),
  "a list that deepens": lines((at) => `${"  ".repeat(at)}- a`),
  "lists that deepen by the line": lines((at) => `${" ".repeat(40 * at)}${"- ".repeat(20)}a`),
  "lines that nest as deeply as is shown": filled(`${"> - ".repeat(10)}a\n`),
  items: filled("- a\n"),
  "numbered items": lines((at) => `${at}. a`),
  "quotes and what follows them": filled("> a\nb\n"),
  "emphasis that never ends": filled("*a_ "),
  "emphasis of both kinds": filled("_*"),
  "emphasis that begins": filled("**a"),
  "emphasis that ends": filled("a**"),
  "emphasis in emphasis": filled("*a **b "),
  strikes: filled("~~a"),
  brackets: filled("["),
  "brackets that close": "[".repeat(LONGEST / 2) + "]".repeat(LONGEST / 2),
  "links that do not end": filled("[a]("),
  "links in links": filled("[[](a)"),
  references: filled("[a]["),
  code: filled("`a"),
  "code of every length": lines((at) => "`".repeat((at % 100) + 1)),
  "code blocks": filled("```\n"),
  "an address with references": filled("&a;", "http://a.b/"),
  "an address with an end that is none": filled("?!", "http://a.b/"),
  addresses: filled("http://a.b "),
  hosts: filled("www.a.b "),
  "mail addresses": filled("a@b.c "),
  "what is no mail address": filled("_@"),
  mentions: filled("@ana "),
  lines: filled("a\n"),
  "indented lines": filled("        a\n"),
  escapes: filled("\\*"),
  "emphasis from right to left": filled("\u202e*a"),
  "code blocks that a quote closes": filled("*a_ ", "> ```\n```\n```\n"),
  "code blocks that no-break spaces close": filled("*a_ ", "```\n```\u00a0\n```\n"),
};

/** Those that the parser just takes on: of each kind, as much as it is given at most. */
export const HARDEST: Readonly<Record<string, string>> = {
  emphasis: `${"*a_ ".repeat(480)}${"word ".repeat(2800)}`,
  "emphasis in emphasis": "*a **b ".repeat(320),
  "an address": `http://a.b/${"&a;".repeat(190)}${" words".repeat(2000)}`,
  links: "[a](http://a.b) ".repeat(270),
  "mail addresses": "a@b.c ".repeat(490),
  items: "- a\n".repeat(490),
  quotes: "> a\nb\n".repeat(320),
  depth: `${"> - ".repeat(10)}a\n`.repeat(45),
  code: "`a` ".repeat(990),
  pipes: "|a".repeat(1900),
};
