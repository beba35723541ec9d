/** What the law asks of a room in the moments that are rare: answers that were overtaken, logs that were restored. */
import { expect, test } from "vitest";
import type { Member, Message, Room } from "../src/contract.gen.ts";
import { applied, begun, type Change, initial, KEPT, type RoomState, type State } from "../src/store.ts";
import { find, tailOf } from "../src/timeline.ts";
import { message, room } from "./make.ts";

function given(more: Partial<Room> = {}): State {
  return { ...initial("me"), rooms: new Map([["r", begun(room(more))]]) };
}

function after(state: State, ...changes: readonly Change[]): State {
  return applied(state, changes);
}

function held(state: State): RoomState {
  return state.rooms.get("r") as RoomState;
}

function said(seq: number, more: Partial<Message> = {}): Change {
  return { type: "message", data: message(seq, more) };
}

function edited(seq: number, of: number): Change {
  return {
    type: "message_edited",
    data: {
      room_id: "r",
      seq,
      message: message(of, { content: `edit ${seq}`, edited_at: "2026-01-31T09:31:00.250Z" }),
    },
  };
}

function page(from: number, to: number, ...messages: readonly Message[]): Change & { type: "page" } {
  return { type: "page", epoch: 0, room_id: "r", page: { from, to, messages } };
}

function rooms(epoch: number, more: Partial<Room>): Change {
  return { type: "rooms", epoch, rooms: [room(more)] };
}

function readElsewhere(read_seq: number): Change {
  return { type: "receipt", data: { room_id: "r", username: "me", delivered_seq: 0, read_seq } };
}

function reset(): Change {
  const data = { username: "me", device: "web", replayed: 0, reset: ["r"], token_expires_at: "", display_name: null };
  return { type: "ready", data };
}

function counts(state: State): readonly number[] {
  const { last_seq, read_seq, unread } = held(state).room;
  return [last_seq, read_seq, unread];
}

const ANA: Member = {
  username: "ana",
  role: "member",
  online: true,
  last_seen: null,
  display_name: null,
  status: null,
  do_not_disturb_until: null,
  muted_until: null,
  picture: null,
};

test("an older page does not undo a change", () => {
  const state = after(given({ last_seq: 5 }), edited(6, 3), page(1, 5, message(3)));
  expect(find(held(state).segments, 3)?.content).toBe("edit 6");
});

test("a change of an unloaded message survives an older page", () => {
  const state = after(
    given({ last_seq: 9 }),
    page(1, 5, message(3)), // somebody jumped there
    edited(10, 3),
    { type: "tail_only", room_id: "r" },
    page(1, 9, message(3)),
  );
  expect(find(held(state).segments, 3)?.content).toBe("edit 10");
});

test("of two changes the newer one is kept for an older page", () => {
  const state = after(
    given({ last_seq: 9 }),
    edited(10, 3),
    page(1, 5, message(3)),
    edited(11, 3),
    { type: "tail_only", room_id: "r" },
    page(1, 9, message(3, { content: "edit 11" })),
  );
  expect(find(held(state).segments, 3)?.content).toBe("edit 11");
});

test("an older answer does not restore a room that was removed", () => {
  const state = after(
    given(),
    { type: "room_removed", data: { room_id: "r", reason: "kicked" } },
    rooms(0, { last_seq: 3 }),
  );
  expect(state.rooms.size).toBe(0);
  expect(after(state, rooms(state.epoch, { last_seq: 3 })).rooms.size).toBe(1);
});

test("an answer from before a lost connection adds no room", () => {
  const state = after(initial("me"), { type: "disconnected" }, rooms(0, { last_seq: 3 }));
  expect(state.rooms.size).toBe(0);
});

test("read messages stay read if an older snapshot arrives later", () => {
  const state = after(given({ last_seq: 3, unread: 3 }), readElsewhere(3), rooms(0, { last_seq: 3, unread: 3 }));
  expect(counts(state)).toEqual([3, 3, 0]);
});

test("a message that arrives after its read marker is not unread", () => {
  const state = after(given({ last_seq: 3, read_seq: 3 }), readElsewhere(5), said(4), said(5), said(6));
  expect(counts(state)).toEqual([6, 5, 1]);
});

test("a message that has overtaken the answer to `read` is unread", () => {
  const state = after(given(), said(1), said(2), { type: "read", room_id: "r", seq: 1, unread: 0 });
  expect(counts(state)).toEqual([2, 1, 1]);
});

test("a message that the answer to `read` has overtaken is counted once", () => {
  const state = after(given(), said(1), { type: "read", room_id: "r", seq: 1, unread: 1 }, said(2));
  expect(counts(state)).toEqual([2, 1, 1]);
});

test("unread counts among unloaded messages come from the server", () => {
  const state = after(given({ last_seq: 9, unread: 9 }), { type: "read", room_id: "r", seq: 4, unread: 5 });
  expect(counts(state)).toEqual([9, 4, 5]);
});

test("messages after the read marker are counted, even if the snapshot is ahead", () => {
  const state = after(given(), said(1), said(2), rooms(0, { last_seq: 4, unread: 4 }), readElsewhere(1));
  expect(counts(state)).toEqual([4, 1, 3]);
  expect(counts(after(state, said(3), said(4), said(5)))).toEqual([5, 1, 4]);
});

test("one's own message marks the room as read", () => {
  const state = after(given({ last_seq: 3, unread: 3 }), said(4, { sender: "me" }));
  expect(counts(state)).toEqual([4, 4, 0]);
});

test("events between a reset and the next snapshot are neither lost nor counted twice", () => {
  const state = after(given({ last_seq: 100 }), said(101), reset(), said(82), said(83));
  const next = after(state, said(84), rooms(state.epoch, { last_seq: 82, unread: 1 }), said(85));
  expect(counts(next)).toEqual([85, 0, 4]);
  expect(held(next).segments).toEqual([{ from: 83, to: 85, messages: [83, 84, 85].map((seq) => message(seq)) }]);
  expect(held(state).cursor).toBe(0);
});

test("a page of a replaced log says nothing about the new one", () => {
  const state = after(given({ last_seq: 100 }), reset());
  const next = after(state, rooms(state.epoch, { last_seq: 85 }), page(61, 99, message(80)));
  expect(held(next).segments).toEqual([{ from: 86, to: 85, messages: [] }]);
});

test("a page beyond the arrived entries leaves those to the events", () => {
  const state = after(given({ last_seq: 2 }), page(1, 4, message(1), message(3), message(4)), said(3), said(4));
  expect(held(state).segments).toEqual([{ from: 1, to: 4, messages: [1, 3, 4].map((seq) => message(seq)) }]);
});

test("after a reset, a page requested before the snapshot undoes no change", () => {
  const state = after(given({ last_seq: 100 }), reset(), edited(85, 3));
  const old: Change = { ...page(1, 84, message(3)), epoch: state.epoch };
  const next = after(state, rooms(state.epoch, { last_seq: 85 }), old);
  expect(find(held(next).segments, 3)).toBeNull();
});

test("an answer from before a reset says nothing about the new log", () => {
  const state = after(given({ last_seq: 100 }), reset(), rooms(0, { last_seq: 100 }), page(1, 100));
  expect(held(state)).toMatchObject({ cursor: 0, waiting: [], segments: [{ from: 1, to: 0 }] });
});

test("joins and leaves during the request are applied to the list of members", () => {
  const asked: Change = { type: "members_asked", room_id: "r" };
  const member = (seq: number, username: string, change: "joined" | "left"): Change => ({
    type: "member",
    data: { room_id: "r", seq, username, change, role: change === "joined" ? "member" : null },
  });
  const answer: Change = { type: "members", room_id: "r", members: [ANA] };
  const state = after(given(), asked, member(1, "ben", "joined"), member(2, "ana", "left"), answer);
  expect([...(held(state).members?.keys() ?? [])]).toEqual(["ben"]);
  expect(held(state).room.members).toBe(3);
  const next = after(state, member(3, "ana", "joined"), member(4, "ben", "left"));
  expect([...(held(next).members?.keys() ?? [])]).toEqual(["ana"]);
});

test("presence is the latest, is shown at the member, and ends with the connection", () => {
  const gone: Change = {
    type: "presence",
    data: { username: "ana", online: false, last_seen: "then", display_name: null, picture: null },
  };
  const members: Change[] = [
    { type: "members_asked", room_id: "r" },
    { type: "members", room_id: "r", members: [ANA] },
  ];
  const state = after(given(), ...members, gone);
  expect(held(state).members?.get("ana")).toMatchObject({ online: false, last_seen: "then" });
  expect(after(state, gone)).toBe(state);
  expect(after(state, { type: "disconnected" }).presence.size).toBe(0);
});

test("who is typing is shown until the message comes, they stop, they leave, or the connection is lost", () => {
  const typing = (on: boolean): Change => ({ type: "typing", data: { room_id: "r", username: "ana", typing: on } });
  const left: Change = {
    type: "member",
    data: { room_id: "r", seq: 1, username: "ana", change: "left", role: null },
  };
  const state = after(given(), typing(true));
  expect([...held(state).typing]).toEqual(["ana"]);
  expect(after(state, typing(true))).toBe(state);
  for (const end of [said(1), typing(false), left, { type: "disconnected" } as const])
    expect(held(after(state, end)).typing.size).toBe(0);
  const mine: Change = { type: "typing", data: { room_id: "r", username: "me", typing: true } };
  expect(held(after(state, mine)).typing.has("me")).toBe(false);
});

test("read markers of others only move forward", () => {
  const mark = (delivered_seq: number, read_seq: number): Change => ({
    type: "receipts",
    room_id: "r",
    receipts: [{ room_id: "r", username: "ana", delivered_seq, read_seq }],
  });
  const state = after(given(), mark(5, 3), mark(4, 4));
  expect(held(state).marks.get("ana")).toEqual({ delivered_seq: 5, read_seq: 4 });
  expect(after(state, mark(5, 4))).toBe(state);
});

test("a background room keeps its newest messages and appends new ones", () => {
  const many = Array.from({ length: KEPT + 50 }, (_, at) => said(at + 1));
  const state = after(given(), ...many, { type: "tail_only", room_id: "r" }, said(KEPT + 51));
  expect(held(state).segments).toHaveLength(1);
  expect(tailOf(held(state).segments)).toMatchObject({ from: 51, to: KEPT + 51 });
  expect(tailOf(held(state).segments).messages).toHaveLength(KEPT + 1);
});

test("events before the first snapshot of a room are neither lost nor counted twice", () => {
  const added = after(initial("me"), said(4), said(5), said(6), readElsewhere(1));
  const state = after(added, rooms(0, { last_seq: 5, unread: 5 }), said(7));
  expect(counts(state)).toEqual([7, 1, 6]);
  expect(held(state).segments).toEqual([{ from: 6, to: 7, messages: [message(6), message(7)] }]);
});

test("events of unknown rooms change nothing", () => {
  const state = after(given(), rooms(0, {}));
  const elsewhere = { room_id: "other" };
  expect(
    after(
      state,
      said(1, elsewhere),
      { type: "receipt", data: { ...elsewhere, username: "me", delivered_seq: 1, read_seq: 1 } },
      { type: "typing", data: { ...elsewhere, username: "ana", typing: true } },
      { type: "member", data: { ...elsewhere, username: "ana", change: "joined", role: "member" } },
      { type: "read", ...elsewhere, seq: 1, unread: 0 },
    ),
  ).toBe(state);
});

function opened(seq: number, content = ""): Change {
  return said(seq, { content, state: "streaming" });
}

function piece(of: number, offset: number, text: string): Change {
  return { type: "message_append", data: { room_id: "r", message_id: `m${of}`, offset, text } };
}

function finished(seq: number, of: number, more: Partial<Message>): Change {
  return { type: "message_finished", data: { room_id: "r", seq, message: message(of, more) } };
}

function contentOf(state: State, seq: number): string | undefined {
  return find(held(state).segments, seq)?.content;
}

test("the pieces of a streaming message are appended, and a repeated piece changes nothing", () => {
  const state = after(given(), opened(1), piece(1, 0, "Hello"), piece(1, 5, ", world"));
  expect(contentOf(state, 1)).toBe("Hello, world");
  expect(held(state).room.last_message?.content).toBe("Hello, world");
  expect(after(state, piece(1, 5, ", world"))).toBe(state);
  expect(contentOf(after(state, piece(1, 0, "Hello, all of you")), 1)).toBe("Hello, all of you");
});

test("a piece moves neither the cursor nor the number of unread messages", () => {
  const state = after(given(), opened(1));
  const next = after(state, piece(1, 0, "Hello"));
  expect(counts(next)).toEqual(counts(state));
  expect(held(next).cursor).toBe(held(state).cursor);
});

test("the offset of a piece counts code points", () => {
  const state = after(given(), opened(1, "a🎉b👍🏽c"), piece(1, 3, "d"));
  expect(contentOf(state, 1)).toBe("a🎉bd");
  expect(contentOf(after(state, piece(1, 2, "🦊"), piece(1, 3, "!")), 1)).toBe("a🎉🦊!");
});

test("a piece of a message that is not held, has ended, or lacks the text before it changes nothing", () => {
  const state = after(given(), said(1), opened(2, "one"));
  for (const change of [piece(1, 0, "no"), piece(2, 4, "no"), piece(3, 0, "no")])
    expect(after(state, change)).toBe(state);
});

test("a finished message replaces the streamed one, and further pieces are ignored", () => {
  const state = after(given(), opened(1), piece(1, 0, "Hel"), finished(2, 1, { content: "Hello" }));
  expect(find(held(state).segments, 1)).toMatchObject({ content: "Hello", state: "complete" });
  expect(held(state).cursor).toBe(2);
  expect(after(state, piece(1, 3, "p"))).toBe(state);
});

test("a page keeps the text that it has beyond an earlier change of a streaming message", () => {
  const reactions = { "👍": ["ben"] };
  const data = { room_id: "r", seq: 3, message: message(1, { content: "Hel", state: "streaming", reactions }) };
  const state = after(given({ last_seq: 2 }), { type: "reaction", data });
  const loaded = after(state, page(1, 2, message(1, { content: "Hello", state: "streaming" })));
  expect(find(held(loaded).segments, 1)).toMatchObject({ content: "Hello", reactions });
  expect(contentOf(after(loaded, piece(1, 5, "!")), 1)).toBe("Hello!");
});
