/**
 * The page's address: `#/room/ID`; `#/room/ID/SEQ`, a message in it; `#/room/ID/SEQ/ID`, a reply in the thread that the
 * message with that id began; `#/topic/ID/NAME` and `#/topic/ID/NAME/SEQ`, the
 * same of a public topic, for sharing; `#/join/CODE` or `#/join/CODE/NAME`, an invitation. `?invitation=CODE` is a link for
 * registration, `?reset=CODE` one to a new password. The administrators' page is at `admin`.
 */
import { useMemo } from "react";
import { navigate, useHashLocation } from "wouter/use-hash-location";
import type { Message, Room } from "./contract.gen.ts";

export interface Route {
  readonly room_id: string | null;
  /** A message to jump to */
  readonly seq: number | null;
  /** The thread that this message is a reply in */
  readonly thread: string | null;
  /** The name in a link to a public topic; only the server knows which topic it is. */
  readonly topic: string | null;
  /** An invitation link that was opened */
  readonly invitation: Invitation | null;
}

export interface Invitation {
  readonly code: string;
  /** The room's name in the link, if any; only the server knows which room it is. */
  readonly name: string;
}

/** Characters of the name in a link */
const LONGEST_NAME = 100;

const LAST = "tidings.last_room";

/** The room that was open last on this device. */
export function lastRoom(): string | null {
  return localStorage.getItem(LAST);
}

export function keepLastRoom(room_id: string | null): void {
  if (room_id === null) localStorage.removeItem(LAST);
  else localStorage.setItem(LAST, room_id);
}

export function useRoute(): Route {
  const [path] = useHashLocation();
  return useMemo(() => read(path), [path]);
}

export function open(room_id: string | null, seq: number | null = null, options?: { replace?: boolean }): void {
  navigate(pathTo(room_id, seq), options);
}

/** Open a message where it is: in its room, and if it is a reply in a thread, in that. */
export function openMessage(
  { room_id, seq, thread }: Pick<Message, "room_id" | "thread"> & Pick<Route, "seq">,
  options?: { replace?: boolean },
): void {
  navigate(pathTo(room_id, seq, thread), options);
}

/** The code of the registration link that was opened. */
export function registrationCode(): string | null {
  return new URLSearchParams(window.location.search).get("invitation") || null;
}

/** The code of the link to a new password that was opened. */
export function resetCode(): string | null {
  return new URLSearchParams(window.location.search).get("reset") || null;
}

/** The address at which a newcomer registers with a code, or a user sets a new password. */
export function addressWith(kind: "invitation" | "reset", code: string): string {
  const url = new URL(".", window.location.href);
  url.searchParams.set(kind, code);
  return url.href;
}

/** Remove a used code from the address. */
export function dropCodes(): void {
  const url = new URL(window.location.href);
  if (url.search === "") return;
  url.search = "";
  window.history.replaceState(window.history.state, "", url);
}

/** The `href` of a room or a message. */
export function hrefTo(room_id: string | null, seq: number | null = null, thread?: string | null): string {
  return `#${pathTo(room_id, seq, thread)}`;
}

/** The full URL of a room or a message, for sharing. That of a public topic has its name, to show before a sign-in. */
export function linkTo(
  { room_id, topic_name, is_private }: Room,
  seq: number | null = null,
  thread?: string | null,
): string {
  const isShown = topic_name !== null && !is_private;
  const path = isShown ? topicPath(room_id, topic_name, seq, thread) : pathTo(room_id, seq, thread);
  return new URL(`#${path}`, window.location.href).href;
}

/** The full URL of an invitation, for sharing. */
export function invitationTo({ code, name }: Invitation): string {
  const path = [code, name].filter((part) => part !== "").map(encodeURIComponent);
  return new URL(`#/join/${path.join("/")}`, window.location.href).href;
}

/** The invitation code in a pasted text: a full URL, or the code itself. */
export function invitationIn(text: string): string {
  const [, code] = /#\/join\/([^/\s]+)/.exec(text) ?? [];
  return code === undefined ? text.trim() : decode(code);
}

function pathTo(room_id: string | null, seq: number | null, thread?: string | null): string {
  return room_id === null ? "/" : `/room/${[room_id, ...within(seq, thread)].map(encodeURIComponent).join("/")}`;
}

function topicPath(room_id: string, name: string, seq: number | null, thread?: string | null): string {
  return `/topic/${[room_id, name, ...within(seq, thread)].map(encodeURIComponent).join("/")}`;
}

function within(seq: number | null, thread: string | null = null): string[] {
  return seq === null ? [] : thread === null ? [`${seq}`] : [`${seq}`, thread];
}

function read(path: string): Route {
  const [, kind, what = "", second = "", third = "", fourth = ""] = path.split("/");
  const route: Route = { room_id: null, seq: null, thread: null, topic: null, invitation: null };
  if (what === "") return route;
  const name = decode(second).slice(0, LONGEST_NAME);
  if (kind === "join") return { ...route, invitation: { code: decode(what), name } };
  if (kind === "topic")
    return { ...route, room_id: decode(what), seq: seqIn(third), thread: decode(fourth) || null, topic: name };
  if (kind !== "room") return route;
  return { ...route, room_id: decode(what), seq: seqIn(second), thread: decode(third) || null };
}

function seqIn(part: string): number | null {
  return /^\d{1,15}$/.test(part) ? Number(part) : null;
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
