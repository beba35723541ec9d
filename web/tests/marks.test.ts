import { expect, test } from "vitest";
import { applied, begun, initial, type RoomState } from "../src/store.ts";
import { marksFor } from "../src/views/marks.ts";
import { room } from "./make.ts";

function told(
  seq: number,
  kind: "direct" | "group" | "topic",
  members: number,
  marks: Record<string, [number, number]>,
) {
  const state = { ...initial("me"), rooms: new Map([["r", begun(room({ kind, members, last_seq: 9 }))]]) };
  const receipts = Object.entries(marks).map(([username, [delivered_seq, read_seq]]) => ({
    room_id: "r",
    username,
    delivered_seq,
    read_seq,
  }));
  const after = applied(state, [{ type: "receipts", room_id: "r", receipts }]);
  return marksFor(after.rooms.get("r") as RoomState)(seq);
}

test("a direct message is sent, then delivered, then read", () => {
  expect(told(5, "direct", 2, {})).toEqual({ mark: "sent", readBy: "" });
  expect(told(5, "direct", 2, { ana: [4, 4] })).toEqual({ mark: "sent", readBy: "" });
  expect(told(5, "direct", 2, { ana: [5, 4] })).toEqual({ mark: "delivered", readBy: "" });
  expect(told(5, "direct", 2, { ana: [5, 5] })).toEqual({ mark: "read", readBy: "" });
});

test("in a group a message is read when all have read it; until then it shows who has", () => {
  expect(told(5, "group", 3, { ana: [7, 7] })).toEqual({ mark: "sent", readBy: "ana" });
  expect(told(5, "group", 3, { ana: [7, 7], omar: [5, 2] })).toEqual({ mark: "delivered", readBy: "ana" });
  expect(told(5, "group", 3, { ana: [7, 7], omar: [5, 5] })).toEqual({ mark: "read", readBy: "ana, omar" });
});

test("topics and rooms without other members show no receipts", () => {
  expect(told(5, "topic", 3, { ana: [7, 7], omar: [7, 7] })).toBeNull();
  expect(told(5, "group", 1, {})).toBeNull();
});
