/** The delivery state of the user's own messages, in conversations. */
import type { RoomState } from "../store.ts";
import type { Mark } from "./tools.ts";

export interface DeliveryState {
  readonly mark: Mark;
  /** The members of a group who have read it; empty in a direct conversation, or if nobody has. */
  readonly readBy: string;
}

/** By a message's seq. Topics have no marks, nor has a conversation without other members. */
export function marksFor(held: RoomState): (seq: number) => DeliveryState | null {
  const { room, marks } = held;
  const others = room.members - 1;
  if (room.kind === "topic" || others < 1) return () => null;
  const known = [...marks];
  return (seq) => {
    const readers = known.filter(([, { read_seq }]) => read_seq >= seq);
    const mark =
      readers.length >= others
        ? "read"
        : known.filter(([, { delivered_seq, read_seq }]) => Math.max(delivered_seq, read_seq) >= seq).length >= others
          ? "delivered"
          : "sent";
    return { mark, readBy: room.kind === "group" ? readers.map(([name]) => name).join(", ") : "" };
  };
}
