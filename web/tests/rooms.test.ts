import { expect, test } from "vitest";
import type { Room } from "../src/contract.gen.ts";
import { applied, begun, initial, type RoomState } from "../src/store.ts";
import { hueOf, nameOf } from "../src/text.ts";
import {
  firstRoom,
  isMentioned,
  isOtherOnline,
  type Line,
  linesOf,
  previewOf,
  type Shown,
  unreadOutOfSight,
} from "../src/views/rooms.ts";
import { CHOSEN, message, room } from "./make.ts";

const ALL: Shown = { filter: "", folded: new Set(), current: null, me: "me" };

test("unread rooms come first, those for the user above the others; then favourites, conversations and topics by their newest message", () => {
  const lines = linesOf(
    held(
      topic("old", { last_message: saidAt("2026-01-01T00:00:00.000Z") }),
      direct("ana", { last_message: saidAt("2026-01-05T00:00:00.000Z") }),
      topic("silent"),
      topic("new", { last_message: saidAt("2026-01-04T00:00:00.000Z") }),
      topic("just made"),
      direct("dora", { unread: 1, last_message: saidAt("2026-01-02T00:00:00.000Z") }),
      topic("loud", { unread: 9, last_message: saidAt("2026-01-06T00:00:00.000Z") }),
      topic("liked", { preferences: { ...CHOSEN, favourite: true } }),
      topic("mute", { unread: 9, preferences: { ...CHOSEN, notify: "nothing" } }),
    ),
    ALL,
  );
  expect(names(lines)).toEqual(
    ["[unread]", "dora", "loud", "[favourites]", "liked", "[direct]", "ana", "[topics]"].concat([
      "new",
      "old",
      "mute",
      "just made",
      "silent",
    ]),
  );
});

test("a folded section shows the open room, which is never among the unread ones", () => {
  const rooms = held(topic("read"), topic("open", { unread: 1 }), topic("unread", { unread: 2 }), direct("ana"));
  const lines = linesOf(rooms, { ...ALL, folded: new Set(["unread", "topics"]), current: "open" });
  expect(names(lines)).toEqual(["[unread]", "[direct]", "ana", "[topics]", "open"]);
});

test("filtering finds parts of names in any case, also in folded sections, and hides empty sections", () => {
  const rooms = held(topic("Releases"), topic("noticias"), direct("ana"));
  const lines = linesOf(rooms, { ...ALL, filter: " ELEA ", folded: new Set(["topics"]) });
  expect(names(lines)).toEqual(["[topics]", "Releases"]);
});

test("unread rooms out of sight are counted, with the nearest one for the user on either side", () => {
  const names = ["a", "b", "c", "d", "e", "f"];
  const lines = linesOf(held(...names.map((name) => direct(name, { unread: 2 }))), ALL).slice(1, names.length + 1);
  expect(unreadOutOfSight(lines, "me", 2, 3)).toEqual({
    above: { count: 2, personal: 2, nearest: 1 },
    below: { count: 2, personal: 2, nearest: 4 },
  });
  const topics = linesOf(
    held(topic("x", { unread: 1 }), topic("y", { unread: 1 }), direct("ana", { unread: 1 })),
    ALL,
  );
  expect(unreadOutOfSight(topics, "me", 0, 0).below).toEqual({ count: 3, personal: 1, nearest: 1 });
  expect(unreadOutOfSight(lines, "me", 0, lines.length)).toEqual({ above: null, below: null });
});

test("the page opens the last room, else the first unread one", () => {
  const rooms = held(topic("one"), topic("two", { unread: 1 }), direct("ana", { unread: 1 }));
  const state = { ...initial("me"), rooms };
  expect([firstRoom(state, "one"), firstRoom(state, "gone"), firstRoom(state, null)]).toEqual(["one", "ana", "ana"]);
  expect(firstRoom({ ...initial("me"), rooms: held(topic("one")) }, null)).toBe(null);
});

test("a mention counts until it is read, wherever it is among the unread messages", () => {
  const mention = message(1, { mentions: ["me"] });
  let state = applied({ ...initial("me"), rooms: held(room()) }, [{ type: "message", data: mention }]);
  expect(mentioned(state.rooms)).toBe(true);
  state = applied(state, [{ type: "message", data: message(2) }]);
  expect(mentioned(state.rooms)).toBe(true);
  state = applied(state, [{ type: "read", room_id: "r", seq: 1, unread: 1 }]);
  expect(mentioned(state.rooms)).toBe(false);
  const preferences = { ...CHOSEN, unread_from: 1 };
  state = applied(state, [{ type: "preferences", data: { room_id: "r", preferences, unread: 2 } }]);
  expect(mentioned(state.rooms), "marked as unread again").toBe(true);
});

test("deleted mentions and one's own do not count", () => {
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

test("a mention that only the snapshot has counts", () => {
  const counted = room({ last_seq: 4, read_seq: 3, unread: 1, last_message: message(4, { mentions: ["me"] }) });
  expect(isMentioned(begun(counted), "me")).toBe(true);
});

test("presence comes from the last event, or else from the snapshot", () => {
  const ana = begun(direct("ana", { online: 2 }));
  expect(isOtherOnline(ana, new Map())).toBe(true);
  expect(isOtherOnline(ana, new Map([["ana", { online: false, last_seen: null, display_name: null }]]))).toBe(false);
  expect(isOtherOnline(begun(direct("ana", { online: 1 })), new Map())).toBe(false);
  expect(isOtherOnline(begun(room({ online: 3 })), new Map())).toBe(false);
});

test("a preview shows the text of a message without its markup", () => {
  const preview = (content: string) =>
    previewOf(begun(direct("ana", { last_message: message(1, { content }) })), "me").text;
  expect(preview("> a quote\n\n- one\n- two\n\n1. three")).toBe("a quote one two three");
  expect(preview("**bold** _and_ ~~gone~~ `code` [a link](https://example.org)")).toBe("bold and gone code a link");
  expect(preview("2 * 3 * 4, snake_case_name, a - b, x > y")).toBe("2 * 3 * 4, snake_case_name, a - b, x > y");
  expect(preview("a".repeat(16_384)).length).toBeLessThanOrEqual(120);
});

test("a group without a title is called by its other members", () => {
  const group = (...names: string[]) =>
    nameOf(
      room({ title: null, members: names.length }),
      new Map(
        names.map((username) => [
          username,
          {
            username,
            role: "member",
            online: false,
            last_seen: null,
            display_name: null,
            status: null,
            do_not_disturb_until: null,
            muted_until: null,
            picture: null,
          },
        ]),
      ),
      "me",
    );
  expect(group("me", "carla", "bruno")).toBe("bruno, carla");
  expect(group("me", "e", "d", "c", "b", "a")).toBe("a, b, c and 2 more");
  expect(nameOf(room({ title: null, members: 3 }))).toBe("Group of 3");
  expect(nameOf(room({ title: "Editors" }), new Map(), "me")).toBe("Editors");
});

test("names that differ in one character have very different hues", () => {
  const hues = Array.from({ length: 10 }, (_, at) => hueOf(`persona00${at}`)).sort((one, other) => one - other);
  const spread = (hues.at(-1) ?? 0) - (hues[0] ?? 0);
  expect(spread).toBeGreaterThan(180);
  expect(new Set(hues.map((hue) => Math.floor(hue / 60))).size).toBeGreaterThanOrEqual(4);
  const [ana, dora] = [hueOf("ana"), hueOf("dora")];
  expect(Math.min(Math.abs(ana - dora), 360 - Math.abs(ana - dora))).toBeGreaterThan(30);
});

test("below a room's name is who is typing, or else the last message and its sender", () => {
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
