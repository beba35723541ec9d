import { type RefObject, useCallback, useEffect, useLayoutEffect, useReducer, useRef, useState } from "react";
import type { VirtualizerHandle } from "virtua";
import { useClient } from "../context.ts";
import { open } from "../location.ts";
import type { RoomState } from "../store.ts";
import { segmentAt } from "../timeline.ts";
import { rowOf } from "./rows.ts";
import { type Jump, useJump } from "./useJump.ts";
import type { RowFocus } from "./useKeyboard.ts";
import { useLatest } from "./useLatest.ts";
import type { Position, Scroll, Shown } from "./useScroll.ts";

/** How long (ms) a jump ignores scroll events while the list settles. */
const SETTLES_WITHIN = { message: 2500, new: 400 };

/** The goal of a jump: a message, or the "New messages" line above it. */
interface Landing {
  readonly seq: number;
  readonly at: "message" | "new";
}

export interface Jumps {
  readonly jump: Jump;
  /** The seq of the message that a jump has just reached. */
  readonly highlighted: number | null;
  /** Jump to the first new message. Rejects if it cannot be loaded. */
  readonly toNew: (first: number) => Promise<void>;
  readonly toNewest: () => void;
  /** Jump to the first message of the log, and focus it. */
  readonly toFirst: () => void;
}

/** Jumps: to the message in the address, to the first new message when the room opens, and to the end. */
export function useLanding(
  { room_id, seq, held }: { room_id: string; seq: number | null; held: RoomState },
  position: Position,
  list: RefObject<VirtualizerHandle | null>,
  shown: Shown,
  { look, toEnd, setAtEnd, setNewIsAbove }: Scroll,
  focus: RowFocus,
): Jumps {
  const client = useClient();
  const latest = useLatest(shown);
  const latestLook = useLatest(look);
  const [landing, setLanding] = useState<Landing | null>(() => {
    const first = position.opening;
    return first === null || segmentAt(held.segments, first) === null ? null : { seq: first, at: "new" };
  });
  const [highlighted, setHighlighted] = useState<number | null>(null);
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  /** Whether the message that is landed on gets the focus */
  const focuses = useRef(false);

  const jump = useJump(room_id, seq);
  const land = useCallback(
    (landing: Landing) => {
      position.seq = landing.seq;
      position.jumping = true;
      position.stuck = false;
      setLanding(landing);
    },
    [position],
  );
  useEffect(() => {
    if (jump.landed !== null) land({ seq: jump.landed.seq, at: "message" });
  }, [jump.landed, land]);

  useLayoutEffect(() => {
    if (landing === null) return;
    position.opening = null;
    const { rows, newAfter } = latest.current;
    const index = rowOf(rows, landing.seq);
    if (index < 0) return;
    const line = landing.at === "new" && rows[index - 1]?.kind === "new" ? index - 1 : index;
    list.current?.scrollToIndex(line, { align: landing.at === "new" ? "start" : "center" });
    if (landing.at === "message") setHighlighted(landing.seq);
    else {
      position.seenLine = newAfter;
      setNewIsAbove(false);
    }
    const key = rows[index]?.key;
    if (focuses.current && key !== undefined) focus.set(key);
    focuses.current = false;
    const timer = setTimeout(() => {
      position.jumping = false;
      setHighlighted(null);
      latestLook.current();
    }, SETTLES_WITHIN[landing.at]);
    return () => clearTimeout(timer);
  }, [landing, position, list, latest, latestLook, focus.set, setNewIsAbove]);

  const toNew = useCallback(
    (first: number) => client.load.around(room_id, first).then(() => land({ seq: first, at: "new" })),
    [client, room_id, land],
  );
  useEffect(() => {
    const first = position.opening;
    if (first === null) return; // already loaded, so the layout effect has landed on it
    // Offline, show the end of what is stored.
    toNew(first).catch(() => {
      position.opening = null;
      position.jumping = false;
      position.stuck = true;
      setAtEnd(true);
    });
  }, [position, toNew, setAtEnd]);
  useEffect(() => {
    if (seq === null) setLanding((before) => (before?.at === "new" ? before : null));
  }, [seq]);

  const toNewest = () => {
    position.opening = null;
    position.seq = null;
    position.jumping = false;
    position.stuck = true;
    setLanding(null);
    setAtEnd(true);
    jump.leave();
    // Cancels an earlier scroll of the list that is still under way.
    list.current?.scrollTo(Number.MAX_SAFE_INTEGER);
    redraw();
    toEnd();
  };
  const toFirst = () => {
    focuses.current = true;
    if (seq === 1) jump.again();
    else open(room_id, 1);
  };
  return { jump, highlighted, toNew, toNewest, toFirst };
}
