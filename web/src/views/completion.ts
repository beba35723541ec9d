/** Completion of names and emoji. */

export interface Trigger {
  readonly kind: "@" | ":";
  /** The text after the sign */
  readonly query: string;
  /** The index of the sign */
  readonly at: number;
}

/** The word before the caret, if it can be completed. */
export function triggerAt(text: string, caret: number): Trigger | null {
  const match = /(?:^|[\s([{"'*_~])([@:])([\p{L}\p{N}_+.-]{0,40})$/u.exec(text.slice(0, caret));
  if (match === null) return null;
  const [, kind, query] = match;
  if (query === undefined || (kind !== "@" && kind !== ":")) return null;
  if (kind === ":" && !/^[a-z+-][a-z0-9_+-]+$/i.test(query)) return null; // not of times and of ":)"
  return { kind, query, at: caret - query.length - 1 };
}

/** The text with the word replaced, and the new caret. */
export function completed(text: string, trigger: Trigger, by: string): { text: string; caret: number } {
  const end = trigger.at + 1 + trigger.query.length;
  const space = /^\s/.test(text.slice(end)) ? "" : " ";
  return { text: text.slice(0, trigger.at) + by + space + text.slice(end), caret: trigger.at + by.length + 1 };
}

/** The short name before the caret that was typed with both colons, outside of code. */
export function closedAt(text: string, caret: number): Trigger | null {
  const [, code] = /:([a-z0-9_+-]+):$/i.exec(text.slice(0, caret)) ?? [];
  const trigger = code === undefined ? null : triggerAt(text, caret - 1);
  if (trigger?.kind !== ":" || trigger.query !== code) return null;
  return text.slice(0, trigger.at).split("`").length % 2 === 0 ? null : trigger;
}

/** Those that are the query, then those that start with it, then those that contain it. */
export function matching<T>(all: Iterable<T>, query: string, nameOf: (one: T) => string, most: number): T[] {
  const sought = query.toLowerCase();
  const [equal, begin, within]: [T[], T[], T[]] = [[], [], []];
  for (const one of all) {
    const name = nameOf(one).toLowerCase();
    const at = name.indexOf(sought);
    if (at >= 0) (name === sought ? equal : at === 0 ? begin : within).push(one);
  }
  return [...equal, ...begin, ...within].slice(0, most);
}

export interface Shortcode {
  readonly code: string;
  readonly emoji: string;
}

let shortcodes: Promise<readonly Shortcode[]> | null = null;

/** Emoji by short name. Loaded at the first use; empty if that fails. */
export function loadShortcodes(): Promise<readonly Shortcode[]> {
  shortcodes ??= fetchShortcodes().catch(() => {
    shortcodes = null;
    return [];
  });
  return shortcodes;
}

async function fetchShortcodes(): Promise<Shortcode[]> {
  const answer = await fetch("emoji/en/shortcodes/github.json");
  const byHexcode = (await answer.json()) as Record<string, string | string[]>;
  return Object.entries(byHexcode).flatMap(([hexcode, codes]) =>
    [codes].flat().map((code) => ({ code, emoji: emojiOf(hexcode) })),
  );
}

function emojiOf(hexcode: string): string {
  const emoji = String.fromCodePoint(...hexcode.split("-").map((part) => Number.parseInt(part, 16)));
  // Some are shown as text without the variation selector.
  return hexcode.includes("-") || /\p{Emoji_Presentation}/u.test(emoji) ? emoji : `${emoji}\uFE0F`;
}
