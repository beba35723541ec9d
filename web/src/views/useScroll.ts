import { type RefObject, useCallback, useEffect, useLayoutEffect, useState } from "react";
import type { VirtualizerHandle } from "virtua";
import { useClient } from "../context.ts";
import { AROUND } from "../store.ts";
import type { Segment } from "../timeline.ts";
import { type Row, seqBefore, seqFrom } from "./rows.ts";
import { useLatest } from "./useLatest.ts";
import type { Direction, Paging } from "./usePaging.ts";
import { useRead } from "./useSeen.ts";

/** A page is loaded when less than this (px) is left to scroll. */
const AHEAD = 1200;
/** Within this distance (px) of the end, the person is at the end. */
const NEAR = 40;
/** Up to this many rows, the list's beginning may be near its end. */
const FEW = 100;

/** Where the person is in the log. It changes while they scroll, without a render. */
export interface Position {
  /** The message at the top of the screen; null: the end of the log, also when the log grows. */
  seq: number | null;
  /** The first unread message, while the room is being opened at it. */
  opening: number | null;
  /** The person is at the end and stays there when messages arrive. */
  stuck: boolean;
  /** The last scroll offset (px). */
  offset: number;
  /** A jump is under way. The messages it passes are not read, and passing the end does not stick to it. */
  jumping: boolean;
  /** The seq before the "New messages" line, once that line was on the screen. */
  seenLine: number | null;
}

/** What the list shows, in the latest render. */
export interface Shown {
  readonly rows: readonly Row[];
  readonly segment: Segment;
  readonly isTail: boolean;
  /** The seq before the first new message; null: there is none. */
  readonly newAfter: number | null;
}

export interface Scroll {
  readonly atEnd: boolean;
  readonly setAtEnd: (atEnd: boolean) => void;
  /** Whether the "New messages" line is above the screen and was never seen. */
  readonly newIsAbove: boolean;
  readonly setNewIsAbove: (isAbove: boolean) => void;
  /** Update the position from the scroll offset, and load the pages that are needed. */
  readonly look: () => void;
  readonly resized: () => void;
  readonly toEnd: () => void;
}

/** Follows the scroll position of the list, keeps it at the end where it was, and loads pages ahead of it. */
export function useScroll(
  room_id: string,
  position: Position,
  scroller: RefObject<HTMLDivElement | null>,
  list: RefObject<VirtualizerHandle | null>,
  shown: Shown,
  paging: Record<Direction, Paging>,
  load: (direction: Direction) => void,
): Scroll {
  const client = useClient();
  const [atEnd, setAtEnd] = useState(position.opening === null);
  const [newIsAbove, setNewIsAbove] = useState(false);
  const seen = useRead(room_id, atEnd && shown.isTail);
  const latest = useLatest(shown);
  const { rows, segment } = shown;

  const toEnd = useCallback(() => {
    const element = scroller.current;
    if (element !== null) element.scrollTop = element.scrollHeight;
  }, [scroller]);

  const look = useCallback(() => {
    const element = scroller.current;
    const handle = list.current;
    if (element === null || handle === null) return;
    const { rows, isTail, segment, newAfter } = latest.current;
    const left = element.scrollHeight - element.clientHeight - element.scrollTop;
    if (position.jumping) position.stuck = false;
    else if (left <= 1) position.stuck = true;
    else if (element.scrollTop < position.offset - 1) position.stuck = false;
    else if (left < NEAR && element.scrollTop > position.offset) position.stuck = true;
    position.offset = element.scrollTop;
    if (position.opening !== null) return;
    const first = handle.findItemIndex(element.scrollTop + 1);
    setAtEnd(position.stuck || left < NEAR);
    position.seq = position.stuck && isTail ? null : seqFrom(rows, first);
    const last = handle.findItemIndex(element.scrollTop + element.clientHeight - 1);
    const above = seqBefore(rows, first) || segment.from - 1;
    const isLookedAt = !position.jumping && seen({ above, last: seqBefore(rows, last + 1) });
    const line = rows.findIndex(({ kind }) => kind === "new");
    // If older messages are missing, the line may stand below its final place.
    if (isLookedAt && first <= line && line <= last && segment.from <= (newAfter ?? 0) + 1)
      position.seenLine = newAfter;
    setNewIsAbove(line >= 0 && line < first && position.seenLine !== newAfter);
    if (element.scrollTop < AHEAD) load("older");
    if (left < AHEAD) load("newer");
  }, [position, scroller, list, latest, load, seen]);

  const resized = useCallback(() => {
    if (!position.stuck || !latest.current.isTail) return look();
    toEnd();
    if (latest.current.rows.length < FEW) look();
  }, [position, latest, toEnd, look]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: the rows have changed
  useLayoutEffect(() => resized(), [rows, resized]);
  // This may run after the list has measured its rows and before it reports their heights. The offset then is not
  // the person's, so it must not unstick them from the end.
  // biome-ignore lint/correctness/useExhaustiveDependencies: a page has arrived, or may be requested again
  useEffect(() => resized(), [paging, resized]);
  // The list reports every other change, but not that it is on the screen again at its former size.
  useEffect(() => {
    const element = scroller.current;
    if (element === null) return;
    const observer = new ResizeObserver(resized);
    observer.observe(element);
    return () => observer.disconnect();
  }, [scroller, resized]);

  useEffect(() => {
    if (segment.messages.length > 2 * AROUND) client.trim(room_id, position.seq ?? segment.to);
  }, [client, room_id, segment, position]);

  return { atEnd, setAtEnd, newIsAbove, setNewIsAbove, look, resized, toEnd };
}
