/** Names, times and errors as text for people. */

import { TidingsError } from "@tidings/client/errors";
import type { Member, Message, Room, Snippet } from "./contract.gen.ts";

/** How many members are named if a group has no title. */
const NAMED = 3;

/** The name of a room: its topic, the other user, its title, or the other members. */
export function nameOf(room: Room, members: ReadonlyMap<string, Member> | null = null, me = ""): string {
  if (room.topic_name !== null || room.title !== null) return room.topic_name ?? room.title ?? "";
  const others = [...(members?.keys() ?? [])].filter((name) => name !== me).sort(byName.compare);
  if (others.length === 0) return room.members > 1 ? `Group of ${room.members}` : "Group";
  if (others.length <= NAMED + 1) return others.join(", ");
  return `${others.slice(0, NAMED).join(", ")} and ${others.length - NAMED} more`;
}

export const byName = new Intl.Collator(undefined, { sensitivity: "base" });

/** A hue (0–359) for a name, far apart for similar names (FNV-1a, with MurmurHash3's final mix). */
export function hueOf(name: string): number {
  let hash = 0x811c9dc5;
  for (const character of name) hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) % 360;
}

/** The text of a message; of one that has only an application's data, the data. */
export function contentOf({ content, data }: Message): string {
  return content === "" && data != null ? `\`${JSON.stringify(data)}\`` : content;
}

/** The beginning of a message on one line, without markup. */
export function plainOf(content: string, most: number): string {
  return content
    .slice(0, 2 * most)
    .replace(/```[\w+-]*/g, " ")
    .replace(/^[ \t]*(?:(?:>|[-+*]|\d{1,9}[.)]|#{1,6})[ \t]+|>)+/gm, "")
    .replace(/^[ \t]*\|?[ \t]*:?-{2,}:?[ \t]*\|[ \t:|-]*$/gm, "")
    .replace(/^[ \t]*\|(.*?)\|?[ \t]*$/gm, (_, row: string) => row.replaceAll("|", " "))
    .replace(/!?\[([^\][]*)\]\([^()\s]*\)/g, "$1")
    .replace(/(\*\*|~~|`+)(?=\S)(.*?\S)\1/g, "$2")
    .replace(/(?<![\p{L}\p{N}_*])([*_])(?=\S)(.*?\S)\1(?![\p{L}\p{N}_*])/gu, "$2")
    .replace(/\s+/g, " ")
    .trim()
    .slice(0, most);
}

/** A snippet of a message on one line, without markup. Private characters mark the matches meanwhile. */
export function plainSnippet(snippet: readonly Snippet[]): Snippet[] {
  const marked = snippet.map(({ text, match }) => (match ? `\uE000${text}\uE001` : text)).join("");
  return plainOf(marked, marked.length)
    .split(/(\uE000[^\uE001]*\uE001)/)
    .filter((part) => part !== "")
    .map((part) => ({ text: part.replace(/[\uE000\uE001]/g, ""), match: part.startsWith("\uE000") }));
}

const characters = new Intl.Segmenter();

/** Two characters for a name: the first of its first two words, else its first two. */
export function initialsOf(name: string): string {
  const words = name.split(/[\s._-]+/).filter((word) => word !== "");
  const of = (word: string, count: number) =>
    [...characters.segment(word)].slice(0, count).map(({ segment }) => segment);
  const [first, second] = words;
  if (first === undefined) return "?";
  return (second === undefined ? of(first, 2) : [...of(first, 1), ...of(second, 1)]).join("").toLocaleUpperCase();
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "long" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });
const short = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

export function timeOf(at: string): string {
  return clock.format(new Date(at));
}

/** The time without AM or PM, for narrow places below a full one. */
export function briefTimeOf(at: string): string {
  const parts = clock.formatToParts(new Date(at)).filter(({ type }) => type !== "dayPeriod");
  return parts
    .map(({ value }) => value)
    .join("")
    .trim();
}

export function momentOf(at: string): string {
  return full.format(new Date(at));
}

/** Days from a date to today, by the local calendar. */
export function daysAgo(at: string, now = new Date()): number {
  const midnight = (day: Date) => new Date(day.getFullYear(), day.getMonth(), day.getDate()).getTime();
  return Math.round((midnight(now) - midnight(new Date(at))) / 86_400_000);
}

/** "Today", "Yesterday", "Monday", or the date. */
export function dayOf(at: string): string {
  const days = daysAgo(at);
  if (days === 0 || days === 1) {
    const word = relative.format(-days, "day");
    return word.charAt(0).toLocaleUpperCase() + word.slice(1);
  }
  return days > 1 && days < 7 ? weekday.format(new Date(at)) : date.format(new Date(at));
}

/** The shortest clear form: the time today, else the day. */
export function whenOf(at: string): string {
  return daysAgo(at) === 0 ? timeOf(at) : short.format(new Date(at));
}

/** Whether a time is in the future. */
export function isAhead(moment: string | null): boolean {
  return moment !== null && new Date(moment).getTime() > Date.now();
}

/** "3 minutes ago". */
export function agoOf(at: string): string {
  const minutes = Math.round((Date.now() - new Date(at).getTime()) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return relative.format(-minutes, "minute");
  if (minutes < 24 * 60) return relative.format(-Math.round(minutes / 60), "hour");
  return relative.format(-daysAgo(at), "day");
}

/** A sentence of the server with its timestamps in local time. */
export function withTimes(sentence: string): string {
  return sentence.replace(/\b\d{4}-\d\d-\d\dT[\d:.]+Z/g, (at) => (daysAgo(at) === 0 ? timeOf(at) : momentOf(at)));
}

const LABELS: Readonly<Record<string, string>> = {
  username: "Username",
  usernames: "Username",
  password: "Password",
  new_password: "New password",
  topic_name: "Topic name",
  title: "Name",
  content: "Message",
  emoji: "Reaction",
  query: "Search",
  code: "Link",
  reason: "Reason",
};

/** The server's message about a field, in plain words. */
const PROBLEMS: readonly (readonly [RegExp, (label: string, ...parts: string[]) => string])[] = [
  [/at least 1 (?:character|item)/, (label) => `${label} is missing`],
  [/^Field required/, (label) => `${label} is missing`],
  [/at least (\d+) characters?/, (label, least) => `${label} must have at least ${least} characters`],
  [/at most (\d+) characters?/, (label, most) => `${label} must not have more than ${most} characters`],
  [/^1–(\d+) characters$/, (label, most) => `${label} must have 1 to ${most} characters`],
  [/^8–72 bytes/, (label) => `${label} must have at least 8 characters, and not more than 72 bytes`],
  [/^not allowed: spaces?$/, (label) => `${label} must not contain spaces`],
  [/^not allowed: (.+)$/, (label, what) => `${label} contains characters that are not allowed: ${what}`],
  [
    /^no (whitespace, )?control/,
    (label, space) => `${label} must not contain ${space ? "spaces or " : ""}invisible characters`,
  ],
  [/^no visible character/, (label) => `${label} has no visible character`],
  [/should match pattern/, (label) => `${label} contains a character that is not allowed`],
  [/^that is yourself/, () => "You cannot do this to yourself"],
  [/^name at least one other user/, () => "Add another user"],
];

/** The errors of a payload, by field. */
function fieldsOf(details: Record<string, unknown>): [field: string, why: string][] {
  const fields = typeof details.fields === "object" && details.fields !== null ? details.fields : details;
  return Object.entries(fields).filter((entry): entry is [string, string] => typeof entry[1] === "string");
}

function problemOf([field, why]: [string, string]): string {
  const label = LABELS[field.split(".")[0] ?? ""] ?? field;
  for (const [pattern, say] of PROBLEMS) {
    const match = pattern.exec(why);
    if (match !== null) return say(label, ...match.slice(1));
  }
  return `${label}: ${why}`;
}

/** The field of the payload that an error is about; null: none. */
export function fieldOf(error: unknown): string | null {
  if (!(error instanceof TidingsError) || error.code !== "invalid") return null;
  return fieldsOf(error.details)[0]?.[0] ?? null;
}

/** An error as a sentence for the user. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof TidingsError)) throw error;
  const [first] = error.code === "invalid" ? fieldsOf(error.details) : [];
  const sentence = withTimes(first === undefined ? error.message : problemOf(first));
  const shown = sentence.charAt(0).toLocaleUpperCase() + sentence.slice(1);
  return /[.!?]$/.test(shown) ? shown : `${shown}.`;
}
