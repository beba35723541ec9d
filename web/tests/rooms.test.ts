import { expect, test } from "vitest";
import type { Room } from "../src/contract.gen.ts";
import { applied, begun, initial, type RoomState } from "../src/store.ts";
import { isMentioned, isOtherOnline, type Line, linesOf, previewOf, type Shown } from "../src/views/rooms.ts";
import { message, room } from "./make.ts";

const ALL: Shown = { filter: "", folded: new Set(), current: null };

test("topics come before conversations, and in each who spoke last comes first", () => {
  const lines = linesOf(
    held(
      topic("old", { last_message: saidAt("2026-01-01T00:00:00.000Z") }),
      direct("ana", { last_message: saidAt("2026-01-05T00:00:00.000Z") }),
      topic("silent"),
      topic("new", { last_message: saidAt("2026-01-04T00:00:00.000Z") }),
      topic("just made"),
    ),
    ALL,
  );
  expect(names(lines)).toEqual(["[topics]", "new", "old", "just made", "silent", "[conversations]", "ana"]);
});

test("a folded section shows what is open or unread", () => {
  const rooms = held(topic("read"), topic("open"), topic("unread", { unread: 2 }), direct("ana"));
  const lines = linesOf(rooms, { ...ALL, folded: new Set(["topics"]), current: "open" });
  expect(names(lines)).toEqual(["[topics]", "unread", "open", "[conversations]", "ana"]);
});

test("filtering finds a part of a name in any case, also in what is folded, and leaves empty sections out", () => {
  const rooms = held(topic("Releases"), topic("noticias"), direct("ana"));
  const lines = linesOf(rooms, { ...ALL, filter: " ELEA ", folded: new Set(["topics"]) });
  expect(names(lines)).toEqual(["[topics]", "Releases"]);
});

test("a mention counts until it is read, wherever it stands among what is unread", () => {
  const mention = message(1, { mentions: ["me"] });
  let state = applied({ ...initial("me"), rooms: held(room()) }, [{ type: "message", data: mention }]);
  expect(mentioned(state.rooms)).toBe(true);
  state = applied(state, [{ type: "message", data: message(2) }]);
  expect(mentioned(state.rooms)).toBe(true);
  state = applied(state, [{ type: "read", room_id: "r", seq: 1, unread: 1 }]);
  expect(mentioned(state.rooms)).toBe(false);
});

test("a mention that was deleted, or by oneself, is none", () => {
  const mention = message(1, { mentions: ["me"] });
  const deleted = { ...mention, deleted: true, content: "", mentions: [] };
  const state = applied({ ...initial("me"), rooms: held(room()) }, [
    { type: "message", data: mention },
    { type: "message_deleted", data: { room_id: "r", seq: 2, message: deleted } },
  ]);
  expect(mentioned(state.rooms)).toBe(false);
  const own = room({ unread: 1, last_message: message(1, { sender: "me", mentions: ["me"] }) });
  expect(isMentioned(begun(own), "me")).toBe(false);
});

test("a mention counts also if only the snapshot has it", () => {
  const counted = room({ last_seq: 4, read_seq: 3, unread: 1, last_message: message(4, { mentions: ["me"] }) });
  expect(isMentioned(begun(counted), "me")).toBe(true);
});

test("the other is online as was heard last, else as the snapshot counted", () => {
  const ana = begun(direct("ana", { online: 2 }));
  expect(isOtherOnline(ana, new Map())).toBe(true);
  expect(isOtherOnline(ana, new Map([["ana", { online: false, last_seen: null }]]))).toBe(false);
  expect(isOtherOnline(begun(direct("ana", { online: 1 })), new Map())).toBe(false);
  expect(isOtherOnline(begun(room({ online: 3 })), new Map())).toBe(false);
});

test("under a room's name stands who is typing, else what was said last and by whom", () => {
  const group = begun(room({ last_message: message(1, { content: "look:\n```js\nx = 1\n```" }) }));
  expect(previewOf(group, "me")).toEqual({ sender: "ana", text: "look: x = 1" });
  expect(previewOf({ ...group, typing: new Set(["ana", "omar"]) }, "me").text).toBe("ana and omar are typing…");
  expect(previewOf(group, "ana").sender).toBe("You");
  expect(previewOf(begun(direct("ana", { last_message: message(1) })), "me").sender).toBe(null);
});

function topic(name: string, more: Partial<Room> = {}): Room {
  return room({ room_id: name, kind: "topic", topic_name: name, title: null, ...more });
}

function direct(other: string, more: Partial<Room> = {}): Room {
  return room({ room_id: other, kind: "direct", title: other, members: 2, ...more });
}

function saidAt(created_at: string): Room["last_message"] {
  return message(1, { created_at });
}

function held(...rooms: Room[]): ReadonlyMap<string, RoomState> {
  return new Map(rooms.map((one) => [one.room_id, begun(one)]));
}

function mentioned(rooms: ReadonlyMap<string, RoomState>): boolean {
  const [only] = rooms.values();
  return only !== undefined && isMentioned(only, "me");
}

function names(lines: readonly Line[]): string[] {
  return lines.map((line) => (line.kind === "heading" ? `[${line.section}]` : line.held.room.room_id));
}
