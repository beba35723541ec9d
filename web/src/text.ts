/** Names, times and errors, as people read them. */
import type { Room } from "./contract.gen.ts";
import { Refused } from "./session.ts";

/** What a room is called: the topic, the other person, or a group's title. */
export function nameOf(room: Room): string {
  return room.topic_name ?? room.title ?? "Group";
}

/** 0–359, always the same for a name. */
export function hueOf(name: string): number {
  let hash = 0;
  for (const character of name) hash = (hash * 31 + (character.codePointAt(0) ?? 0)) % 3600;
  return hash % 360;
}

/** The first letter or sign of a name. */
export function initialOf(name: string): string {
  const [first] = new Intl.Segmenter().segment(name);
  return first?.segment.toLocaleUpperCase() ?? "?";
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

/** The same without AM or PM, for where there is little room and the rest stands above. */
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

/** Days from that day to today, by the local calendar. */
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

/** As little as says when: the time today, else the day. */
export function whenOf(at: string): string {
  return daysAgo(at) === 0 ? timeOf(at) : short.format(new Date(at));
}

/** "3 minutes ago". */
export function agoOf(at: string): string {
  const minutes = Math.round((Date.now() - new Date(at).getTime()) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return relative.format(-minutes, "minute");
  if (minutes < 24 * 60) return relative.format(-Math.round(minutes / 60), "hour");
  return relative.format(-daysAgo(at), "day");
}

/** A sentence of the server with its times as people read them, by their own clock. */
export function withTimes(sentence: string): string {
  return sentence.replace(/\b\d{4}-\d\d-\d\dT[\d:.]+Z/g, (at) => (daysAgo(at) === 0 ? timeOf(at) : momentOf(at)));
}

/** What went wrong, for the person who asked. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Refused)) throw error;
  const [first] = Object.entries(error.details).filter(([, why]) => typeof why === "string");
  const sentence = withTimes(
    error.code === "invalid" && first !== undefined ? `${first[0]}: ${first[1]}` : error.message,
  );
  const shown = sentence.charAt(0).toLocaleUpperCase() + sentence.slice(1);
  return /[.!?]$/.test(shown) ? shown : `${shown}.`;
}
