/**
 * What is on the screen, as the address says it: `#/room/ID`; `#/room/ID/SEQ`, a message in it; `#/join/CODE`, an
 * invitation.
 */
import { useMemo } from "react";
import { navigate, useHashLocation } from "wouter/use-hash-location";

export interface Route {
  readonly room_id: string | null;
  /** A message to jump to */
  readonly seq: number | null;
  /** The code of an invitation link that was opened */
  readonly invitation: string | null;
}

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

/** The whole address of a message, to hand on. */
export function linkTo(room_id: string, seq: number): string {
  return new URL(hrefTo(room_id, seq), window.location.href).href;
}

/** The whole address of an invitation, to hand on. */
export function invitationTo(code: string): string {
  return new URL(`#/join/${encodeURIComponent(code)}`, window.location.href).href;
}

/** The code in what somebody was handed: the address of an invitation, or the code itself. */
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
  if (kind === "join") return { ...route, invitation: decode(what) };
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
