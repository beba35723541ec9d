import { useCallback, useEffect, useRef, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { RoomState } from "../store.ts";

/** The interval (ms) between two read markers while the user scrolls. */
const COUNTED_EVERY = 500;

/** Whether the page is visible, focused and online: messages that arrive after a break were not seen live. */
function useLookedAt(): boolean {
  const online = useView((view) => view.status.is === "online");
  const [looked, setLooked] = useState(isLookedAt);
  useEffect(() => {
    const changed = () => setLooked(isLookedAt());
    document.addEventListener("visibilitychange", changed);
    window.addEventListener("focus", changed);
    window.addEventListener("blur", changed);
    return () => {
      document.removeEventListener("visibilitychange", changed);
      window.removeEventListener("focus", changed);
      window.removeEventListener("blur", changed);
    };
  }, []);
  return looked && online;
}

function isLookedAt(): boolean {
  return document.visibilityState === "visible" && document.hasFocus();
}

/**
 * Mark the room as read while its end is on the screen and the user looks at it. The returned function gets the messages
 * on the screen elsewhere: the room is read up to the last one, unless an unread one is above. It returns whether the user looks.
 */
export function useRead(room_id: string, atEnd: boolean): (seen: { above: number; last: number }) => boolean {
  const client = useClient();
  const looked = useLookedAt();
  useEffect(() => {
    if (!looked || !atEnd) return;
    client.look(room_id);
    return () => client.look(null);
  }, [client, room_id, looked, atEnd]);
  const seenTo = useRef(0);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  return useCallback(
    ({ above, last }) => {
      const read_seq = client.room(room_id)?.room.read_seq;
      if (!looked || read_seq === undefined) return false;
      const seen = Math.max(seenTo.current, read_seq);
      if (above > seen || last <= seen) return true;
      seenTo.current = last;
      timer.current ??= setTimeout(() => {
        timer.current = undefined;
        client.readTo(room_id, seenTo.current);
      }, COUNTED_EVERY);
      return true;
    },
    [client, room_id, looked],
  );
}

export interface New {
  /** The seq after which messages are new */
  readonly after: number;
  /** The number of new messages of other users when the user came back */
  readonly count: number;
}

/**
 * The new messages: those unread when the room was opened, then those that arrived while the user looked away or the
 * connection was lost. null: there are none.
 */
export function useNew(held: RoomState): New | null {
  const looked = useLookedAt();
  const [fresh, setFresh] = useState<New | null>(() => newIn(held));
  const now = useRef(held);
  now.current = held;
  useEffect(() => {
    const { cursor, room } = now.current;
    if (!looked) setFresh((before) => (room.unread === 0 ? { after: cursor, count: 0 } : before));
    else
      setFresh((before) => {
        if (before === null || cursor <= before.after) return null;
        return before.count === 0 ? { after: before.after, count: room.unread } : before;
      });
  }, [looked]);
  return fresh;
}

function newIn({ room }: RoomState): New | null {
  return room.unread > 0 ? { after: room.read_seq, count: room.unread } : null;
}
