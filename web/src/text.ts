/** Names, times and errors as text for people. */

import { TidingsError } from "@tidings/client/errors";
import type { Member, Message, Room, Snippet } from "./contract.gen.ts";
import { locale, m, t, translationOf } from "./i18n.ts";

/** How many members are named if a group has no title. */
const NAMED = 3;

/** The name of a room: its topic, the other user, its title, or the other members; users by their display names. */
export function nameOf(room: Room, members: ReadonlyMap<string, Member> | null = null, me = ""): string {
  const named = (username: string) => members?.get(username)?.display_name ?? username;
  if (room.kind === "direct" && room.title !== null) return named(room.title);
  if (room.topic_name !== null || room.title !== null) return room.topic_name ?? room.title ?? "";
  const others = [...(members?.keys() ?? [])]
    .filter((name) => name !== me)
    .map(named)
    .sort(byName.compare);
  if (others.length === 0) return room.members > 1 ? t("Group of {members}", { members: room.members }) : t("Group");
  if (others.length <= NAMED + 1) return others.join(", ");
  return t("{names} and {count} more", { names: others.slice(0, NAMED).join(", "), count: others.length - NAMED });
}

export const byName = new Intl.Collator(locale, { sensitivity: "base" });

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

/** A message on one line, in at most so many characters; of one without text, the names of its files. */
export function summaryOf(message: Message, most: number): string {
  const content = contentOf(message);
  return content === ""
    ? (message.files ?? [])
        .map(({ name }) => name)
        .join(", ")
        .slice(0, most)
    : plainOf(content, most);
}

/** The beginning of a text on one line, without markup. */
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

const clock = new Intl.DateTimeFormat(locale, { timeStyle: "short" });
const weekday = new Intl.DateTimeFormat(locale, { weekday: "long" });
const date = new Intl.DateTimeFormat(locale, { day: "numeric", month: "long", year: "numeric" });
const short = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "medium" });
const relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });

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
  if (minutes < 1) return t("just now");
  if (minutes < 60) return relative.format(-minutes, "minute");
  if (minutes < 24 * 60) return relative.format(-Math.round(minutes / 60), "hour");
  return relative.format(-daysAgo(at), "day");
}

/** A sentence of the server with its timestamps in local time. */
export function withTimes(sentence: string): string {
  return sentence.replace(/\b\d{4}-\d\d-\d\dT[\d:.]+Z/g, (at) => (daysAgo(at) === 0 ? timeOf(at) : momentOf(at)));
}

const LABELS: Readonly<Record<string, string>> = {
  username: m("Username"),
  usernames: m("Username"),
  password: m("Password"),
  new_password: m("New password"),
  topic_name: m("Topic name"),
  title: m("Name"),
  content: m("Message"),
  emoji: m("Reaction"),
  query: m("Search"),
  code: m("Link"),
  reason: m("Reason"),
};

/** The server's message about a field, in plain words. */
const PROBLEMS: readonly (readonly [RegExp, (label: string, ...parts: string[]) => string])[] = [
  [/at least 1 (?:character|item)/, (label) => t("{label} is missing", { label })],
  [/^Field required/, (label) => t("{label} is missing", { label })],
  [
    /at least (\d+) characters?/,
    (label, least) => t("{label} must have at least {least} characters", { label, least }),
  ],
  [
    /at most (\d+) characters?/,
    (label, most) => t("{label} must not have more than {most} characters", { label, most }),
  ],
  [/^1–(\d+) characters$/, (label, most) => t("{label} must have 1 to {most} characters", { label, most })],
  [/^8–72 bytes/, (label) => t("{label} must have at least 8 characters, and not more than 72 bytes", { label })],
  [/^not allowed: spaces?$/, (label) => t("{label} must not contain spaces", { label })],
  [
    /^not allowed: (.+)$/,
    (label, what) => t("{label} contains characters that are not allowed: {what}", { label, what }),
  ],
  [
    /^no (whitespace, )?control/,
    (label, space) =>
      space
        ? t("{label} must not contain spaces or invisible characters", { label })
        : t("{label} must not contain invisible characters", { label }),
  ],
  [/^no visible character/, (label) => t("{label} has no visible character", { label })],
  [/should match pattern/, (label) => t("{label} contains a character that is not allowed", { label })],
  [/^that is yourself/, () => t("You cannot do this to yourself")],
  [/^name at least one other user/, () => t("Add another user")],
];

/** The errors of a payload, by field. */
function fieldsOf(details: Record<string, unknown>): [field: string, why: string][] {
  const fields = typeof details.fields === "object" && details.fields !== null ? details.fields : details;
  return Object.entries(fields).filter((entry): entry is [string, string] => typeof entry[1] === "string");
}

function problemOf([field, why]: [string, string]): string {
  const label = t(LABELS[field.split(".")[0] ?? ""] ?? field);
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

/** What an error means, for languages into which its message is not translated. The server may add codes. */
const MEANINGS: Readonly<Record<string, string>> = {
  invalid: m("The server does not accept this."),
  unknown_action: m("The server does not know this action."),
  unauthenticated: m("The username or the password is wrong."),
  token_expired: m("Your session has expired."),
  token_revoked: m("Your session was signed out."),
  forbidden: m("You may not do this."),
  not_found: m("This does not exist, or you may not see it."),
  conflict: m("This is not possible now: something else has changed, or exists already."),
  too_large: m("This is too large, or too many."),
  rate_limited: m("Too many requests. Try again in a moment."),
  unavailable: m("The server is not available now. Try again in a moment."),
  internal: m("The server has made a mistake."),
  store_failed: m("This device could not store it. Its storage may be full."),
  store_of_another: m("Another user has stored data in this browser."),
  offline: m("There is no connection to the server."),
};

/** The message of an error, in the user's language. */
export function messageOf({ code, message }: Pick<TidingsError, "code" | "message">): string {
  return translationOf(message) ?? t(MEANINGS[code] ?? message);
}

const KEYS: Readonly<Record<string, string>> = {
  Delete: m("Del"),
  End: m("End"),
  Enter: m("Enter"),
  Escape: m("Escape"),
  Home: m("Home"),
  Shift: m("Shift"),
};

/** The names of keys, such as "Shift Enter". */
export function keysOf(keys: string): string {
  return keys.replace(/\p{L}{2,}/gu, (key) => t(KEYS[key] ?? key));
}

const ROLES = { owner: m("owner"), moderator: m("moderator"), member: m("member") } as const;

export function roleOf(role: keyof typeof ROLES): string {
  return t(ROLES[role]);
}

/** An error as a sentence for the user. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof TidingsError)) throw error;
  const [first] = error.code === "invalid" ? fieldsOf(error.details) : [];
  const sentence = withTimes(first === undefined ? messageOf(error) : problemOf(first));
  const shown = sentence.charAt(0).toLocaleUpperCase() + sentence.slice(1);
  return /[.!?]$/.test(shown) ? shown : `${shown}.`;
}
