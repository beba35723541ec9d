/**
 * The page's address: `#/room/ID`; `#/room/ID/SEQ`, a message in it; `#/join/CODE` or
 * `#/join/CODE/NAME`, an invitation.
 */
import { useMemo } from "react";
import { navigate, useHashLocation } from "wouter/use-hash-location";

export interface Route {
  readonly room_id: string | null;
  /** A message to jump to */
  readonly seq: number | null;
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

export function useRoute(): Route {
  const [path] = useHashLocation();
  return useMemo(() => read(path), [path]);
}

export function open(room_id: string | null, seq: number | null = null, options?: { replace?: boolean }): void {
  navigate(pathTo(room_id, seq), options);
}

/** The `href` of a room or a message. */
export function hrefTo(room_id: string | null, seq: number | null = null): string {
  return `#${pathTo(room_id, seq)}`;
}

/** The full URL of a message, for sharing. */
export function linkTo(room_id: string, seq: number): string {
  return new URL(hrefTo(room_id, seq), window.location.href).href;
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

function pathTo(room_id: string | null, seq: number | null): string {
  if (room_id === null) return "/";
  return `/room/${encodeURIComponent(room_id)}${seq === null ? "" : `/${seq}`}`;
}

function read(path: string): Route {
  const [, kind, what, seq] = path.split("/");
  const route: Route = { room_id: null, seq: null, invitation: null };
  if (what === undefined || what === "") return route;
  if (kind === "join")
    return { ...route, invitation: { code: decode(what), name: decode(seq ?? "").slice(0, LONGEST_NAME) } };
  if (kind !== "room") return route;
  return { ...route, room_id: decode(what), seq: seq !== undefined && /^\d{1,15}$/.test(seq) ? Number(seq) : null };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
