import { useEffect, useRef, useState } from "react";
import { useClient } from "../context.ts";
import type { RoomState } from "../store.ts";

/** Whether somebody looks at the page. */
function useLookedAt(): boolean {
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
  return looked;
}

function isLookedAt(): boolean {
  return document.visibilityState === "visible" && document.hasFocus();
}

/** The room is read while its end is on the screen and somebody looks at it. */
export function useRead(room_id: string, atEnd: boolean): void {
  const client = useClient();
  const looked = useLookedAt();
  useEffect(() => {
    if (!looked || !atEnd) return;
    client.look(room_id);
    return () => client.look(null);
  }, [client, room_id, looked, atEnd]);
}

/**
 * The seq after which messages are new to the person: how far the room was read when it was opened, then how far it had
 * come when they looked away. null: nothing is new.
 */
export function useNewAfter(held: RoomState): number | null {
  const looked = useLookedAt();
  const [newAfter, setNewAfter] = useState<number | null>(() => (held.room.unread > 0 ? held.room.read_seq : null));
  const now = useRef(held);
  now.current = held;
  useEffect(() => {
    const { cursor, room } = now.current;
    if (!looked) setNewAfter((before) => (room.unread === 0 ? cursor : before));
    else setNewAfter((before) => (before !== null && cursor > before ? before : null));
  }, [looked]);
  return newAfter;
}
