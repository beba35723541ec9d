import { useEffect, useReducer } from "react";
import { useView } from "../context.ts";

const LONGEST_TIMER = 2 ** 31 - 1;

/** When the user's mute in a room ends, as far as known; null: not muted. */
export function useMuted(room_id: string): string | null {
  const until = useView((view) => view.state.rooms.get(room_id)?.mutedUntil ?? null);
  const [, again] = useReducer((count: number) => count + 1, 0);
  const left = until === null ? 0 : new Date(until).getTime() - Date.now();
  useEffect(() => {
    if (left <= 0) return;
    const timer = setTimeout(again, Math.min(left + 100, LONGEST_TIMER));
    return () => clearTimeout(timer);
  }, [left]);
  return left > 0 ? until : null;
}
