/** Colours code. This, and each language, is loaded when a message has such code. */
import type { LanguageFn } from "highlight.js";
import { createLowlight } from "lowlight";

/** What a part of the code is, such as `keyword`; "": nothing that has a colour. */
export interface Token {
  readonly kind: string;
  readonly text: string;
}

type Loaded = Promise<{ readonly default: LanguageFn }>;

const LANGUAGES: Readonly<Record<string, () => Loaded>> = {
  bash: () => import("highlight.js/lib/languages/bash"),
  c: () => import("highlight.js/lib/languages/c"),
  cpp: () => import("highlight.js/lib/languages/cpp"),
  csharp: () => import("highlight.js/lib/languages/csharp"),
  css: () => import("highlight.js/lib/languages/css"),
  diff: () => import("highlight.js/lib/languages/diff"),
  dockerfile: () => import("highlight.js/lib/languages/dockerfile"),
  go: () => import("highlight.js/lib/languages/go"),
  java: () => import("highlight.js/lib/languages/java"),
  javascript: () => import("highlight.js/lib/languages/javascript"),
  json: () => import("highlight.js/lib/languages/json"),
  kotlin: () => import("highlight.js/lib/languages/kotlin"),
  php: () => import("highlight.js/lib/languages/php"),
  python: () => import("highlight.js/lib/languages/python"),
  ruby: () => import("highlight.js/lib/languages/ruby"),
  rust: () => import("highlight.js/lib/languages/rust"),
  sql: () => import("highlight.js/lib/languages/sql"),
  swift: () => import("highlight.js/lib/languages/swift"),
  typescript: () => import("highlight.js/lib/languages/typescript"),
  xml: () => import("highlight.js/lib/languages/xml"),
  yaml: () => import("highlight.js/lib/languages/yaml"),
};
const ALIASES: Readonly<Record<string, string>> = {
  "c#": "csharp",
  "c++": "cpp",
  cs: "csharp",
  docker: "dockerfile",
  html: "xml",
  js: "javascript",
  jsx: "javascript",
  kt: "kotlin",
  patch: "diff",
  py: "python",
  rb: "ruby",
  rs: "rust",
  sh: "bash",
  shell: "bash",
  svg: "xml",
  ts: "typescript",
  tsx: "typescript",
  yml: "yaml",
  zsh: "bash",
};

const lowlight = createLowlight();

/** The code in its parts; null: the language is not known. */
export async function highlighted(code: string, language: string): Promise<readonly Token[] | null> {
  const named = language.toLowerCase();
  const name = ALIASES[named] ?? named;
  const load = Object.hasOwn(LANGUAGES, name) ? LANGUAGES[name] : undefined;
  if (load === undefined) return null;
  if (!lowlight.registered(name)) lowlight.register(name, (await load()).default);
  const tokens: Token[] = [];
  collect(lowlight.highlight(name, code).children, "", tokens);
  return tokens;
}

type Node = ReturnType<typeof lowlight.highlight>["children"][number];

function collect(nodes: readonly Node[], kind: string, tokens: Token[]): void {
  for (const node of nodes) {
    if (node.type === "text") tokens.push({ kind, text: node.value });
    else if (node.type === "element") {
      const [name = ""] = (node.properties.className ?? []) as string[];
      collect(node.children, name.replace(/^hljs-/, "") || kind, tokens);
    }
  }
}
