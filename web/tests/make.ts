import type { Message, Preferences, Room } from "../src/contract.gen.ts";

/** A message as it was first sent. */
export function message(seq: number, more: Partial<Message> = {}): Message {
  return {
    id: `m${seq}`,
    room_id: "r",
    topic_name: null,
    seq,
    sender: "ana",
    content: `message ${seq}`,
    created_at: "2026-01-31T09:30:00.250Z",
    edited_at: null,
    deleted: false,
    client_id: null,
    reply_to: null,
    reactions: {},
    mentions: [],
    data: null,
    state: "complete",
    ...more,
  };
}

/** The preferences of a member who has chosen nothing. */
export const CHOSEN: Preferences = {
  notify: "all",
  quiet_until: null,
  favourite: false,
  section: null,
  unread_from: null,
};

/** A group of three in which nothing has been said. */
export function room(more: Partial<Room> = {}): Room {
  return {
    room_id: "r",
    kind: "group",
    topic_name: null,
    title: "Editors",
    is_private: true,
    role: "member",
    members: 3,
    online: 1,
    last_seq: 0,
    read_seq: 0,
    unread: 0,
    last_message: null,
    posting: "members",
    purpose: null,
    picture: null,
    preferences: CHOSEN,
    ...more,
  };
}
