import { ArrowDown } from "lucide-react";
import {
  type KeyboardEvent,
  useCallback,
  useEffect,
  useLayoutEffect,
  useMemo,
  useReducer,
  useRef,
  useState,
} from "react";
import { Virtualizer, type VirtualizerHandle } from "virtua";
import { useClient, useRoom, useView } from "../context.ts";
import type { RoomState } from "../store.ts";
import { AROUND } from "../store.ts";
import { dayOf, nameOf } from "../text.ts";
import { segmentAt, tailOf } from "../timeline.ts";
import { MessageRow } from "./MessageRow.tsx";
import { marksFor } from "./marks.ts";
import { countAfter, type Row, rowOf, rowsOf, stepTo } from "./rows.ts";
import type { Tools } from "./tools.ts";
import { mayDelete } from "./tools.ts";
import { Rows } from "./ui.tsx";
import { useJump } from "./useJump.ts";
import { type Direction, type Paging, usePaging } from "./usePaging.ts";
import { useReply } from "./useReply.ts";
import { useNewAfter, useRead } from "./useSeen.ts";

/** Pages are asked for when less than this (px) is left to scroll. */
const AHEAD = 1200;
/** Less than this (px) from the end is the end. */
const NEAR = 40;
/** So few rows may leave the list's beginning near its end. */
const FEW = 100;

export interface TimelineProps {
  room_id: string;
  seq: number | null;
  tools: Tools;
  moderator: boolean;
}

/** The messages of a room: of the tail of its log, or of the part of it that somebody jumped to. */
export function Timeline(props: TimelineProps) {
  const held = useRoom(props.room_id);
  return held === undefined ? null : <Log {...props} held={held} />;
}

function Log({ room_id, held, seq, tools, moderator }: TimelineProps & { held: RoomState }) {
  const client = useClient();
  const unsent = useView((view) => view.unsent);
  const waiting = useMemo(() => unsent.filter((one) => one.room_id === room_id), [unsent, room_id]);
  const scroller = useRef<HTMLDivElement>(null);
  const list = useRef<VirtualizerHandle>(null);

  /** A seq that is looked at; null: the end of the tail, wherever it moves. */
  const place = useRef<number | null>(null);
  const [landing, setLanding] = useState<{ seq: number } | null>(null);
  const tail = tailOf(held.segments);
  const segment = (place.current === null ? null : segmentAt(held.segments, place.current)) ?? tail;
  const isTail = segment === tail;

  const newAfter = useNewAfter(held);
  const rows = useMemo(
    () => rowsOf({ segment, me: client.me, newAfter, unsent: isTail ? waiting : [] }),
    [segment, client, newAfter, isTail, waiting],
  );
  const { shown, shift, epoch } = useShown(rows);
  const { paging, load } = usePaging(room_id, segment, isTail);

  const [atEnd, setAtEnd] = useState(true);
  const stuck = useRef(true);
  const offset = useRef(0);
  /** On the way to a message: where that leads by the way says nothing about the end. */
  const jumping = useRef(false);
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  const looksAtEnd = atEnd && isTail;
  useRead(room_id, looksAtEnd);

  const toEnd = useCallback(() => {
    const element = scroller.current;
    if (element !== null) element.scrollTop = element.scrollHeight;
  }, []);

  const now = useRef({ shown, isTail, segment });
  now.current = { shown, isTail, segment };

  /** What follows from where one is: what is looked at, whether that is the end, and which pages are needed. */
  const look = useCallback(() => {
    const element = scroller.current;
    const handle = list.current;
    if (element === null || handle === null) return;
    const { shown, isTail } = now.current;
    const left = element.scrollHeight - element.clientHeight - element.scrollTop;
    if (jumping.current) stuck.current = false;
    else if (left <= 1) stuck.current = true;
    else if (element.scrollTop < offset.current - 1) stuck.current = false;
    else if (left < NEAR && element.scrollTop > offset.current) stuck.current = true;
    offset.current = element.scrollTop;
    setAtEnd(stuck.current || left < NEAR);
    place.current = stuck.current && isTail ? null : seqFrom(shown, handle.findItemIndex(element.scrollTop + 1));
    if (element.scrollTop < AHEAD) load("older");
    if (left < AHEAD) load("newer");
  }, [load]);

  // The end stays the end, whatever is put on it and however high it turns out to be.
  const resized = useCallback(() => {
    if (!stuck.current || !now.current.isTail) return look();
    toEnd();
    if (now.current.shown.length < FEW) look();
  }, [toEnd, look]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: with every change of the rows
  useLayoutEffect(() => resized(), [shown, resized]);
  // It may run between the list's taking in its rows' heights and telling of it: where one is then, nobody has gone to.
  // biome-ignore lint/correctness/useExhaustiveDependencies: a page has come, or may be asked for again
  useEffect(() => resized(), [paging, resized]);
  // The list tells of everything else; but not of its return to the screen at the size that it had.
  useEffect(() => {
    const element = scroller.current;
    if (element === null) return;
    const observer = new ResizeObserver(resized);
    observer.observe(element);
    return () => observer.disconnect();
  }, [resized]);

  useEffect(() => {
    if (segment.messages.length > 2 * AROUND) client.trim(room_id, place.current ?? segment.to);
  }, [client, room_id, segment]);

  // Jumping

  const jump = useJump(room_id, seq);
  const [highlighted, setHighlighted] = useState<number | null>(null);
  useEffect(() => {
    if (jump.landed === null) return;
    place.current = jump.landed.seq;
    jumping.current = true;
    stuck.current = false;
    setLanding(jump.landed);
  }, [jump.landed]);
  useLayoutEffect(() => {
    if (landing === null) return;
    const index = rowOf(now.current.shown, landing.seq);
    if (index < 0) return;
    list.current?.scrollToIndex(index, { align: "center" });
    setHighlighted(landing.seq);
    const timer = setTimeout(() => {
      jumping.current = false;
      setHighlighted(null);
    }, 2500);
    return () => clearTimeout(timer);
  }, [landing]);
  useEffect(() => {
    if (seq === null) setLanding(null);
  }, [seq]);
  const toNewest = () => {
    place.current = null;
    jumping.current = false;
    stuck.current = true;
    setAtEnd(true);
    jump.leave();
    redraw();
    toEnd();
  };

  // Who sends something wants to see it.
  const sent = useRef(waiting.length);
  // biome-ignore lint/correctness/useExhaustiveDependencies: when there is one more
  useEffect(() => {
    if (waiting.length > sent.current) toNewest();
    sent.current = waiting.length;
  }, [waiting]);

  const seen = useRef(tail.to);
  if (looksAtEnd) seen.current = tail.to;
  const fresh = looksAtEnd ? 0 : countAfter(tail, seen.current, client.me);

  // By keyboard

  const [current, setCurrent] = useState<string | null>(null);
  const wanted = useRef<string | null>(null);
  const chosen = indexOf(shown, current) ?? lastMessage(shown);
  // Once the row is there
  useLayoutEffect(() => {
    if (wanted.current === null) return;
    const article = scroller.current?.querySelector<HTMLElement>(`[data-key="${CSS.escape(wanted.current)}"]`);
    if (article == null) return;
    wanted.current = null;
    article.focus({ preventScroll: true });
  });
  const go = (from: number, step: 1 | -1) => {
    for (let at = from + step; at >= 0 && at < shown.length; at += step) {
      const row = shown[at];
      if (row?.kind !== "message") continue;
      stuck.current = false;
      wanted.current = row.key;
      setCurrent(row.key);
      list.current?.scrollToIndex(at, { align: "nearest" });
      return;
    }
  };
  const pressed = (event: KeyboardEvent) => {
    const article = event.target instanceof HTMLElement && event.target.matches("article") ? event.target : null;
    if (event.key === "Escape" && !event.defaultPrevented) return focusComposer();
    if (article === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const index = indexOf(shown, article.dataset.key ?? "");
    const row = index === null ? undefined : shown[index];
    if (index === null || row?.kind !== "message") return;
    const { message } = row;
    const settled = row.unsent === null && !message.deleted;
    const key = event.key.toLowerCase();
    if (key === "arrowup") go(index, -1);
    else if (key === "arrowdown") go(index, 1);
    else if (key === "end") toNewest();
    else if (!settled) return;
    else if (key === "r") tools.reply(message);
    else if (key === "e" && message.sender === client.me) tools.edit(message);
    else if (key === "delete" && mayDelete(message, client.me, moderator)) tools.remove(message);
    else if (key === "+") article.querySelector<HTMLElement>(".actions .pick")?.click();
    else return;
    event.preventDefault();
  };

  const replied = useReply(held.segments);
  const marks = useMemo(() => marksFor(held), [held]);
  const row = (row: Row) => {
    if (row.kind === "beginning") return <Beginning key={row.key} held={held} />;
    if (row.kind === "day")
      return (
        <div key={row.key} className="day">
          <span>{dayOf(row.at)}</span>
        </div>
      );
    if (row.kind === "new")
      return (
        <div key={row.key} className="new-line">
          <span>New messages</span>
        </div>
      );
    const told = row.unsent === null && row.message.sender === client.me ? marks(row.message.seq) : null;
    return (
      <MessageRow
        key={row.key}
        row={row}
        tools={tools}
        moderator={moderator}
        mark={told?.mark ?? null}
        readBy={told?.readBy ?? ""}
        replied={replied(row.message)}
        highlighted={highlighted === row.message.seq && row.unsent === null}
        current={row === shown[chosen]}
      />
    );
  };

  return (
    <div className="timeline">
      <div
        ref={scroller}
        className="scroller"
        role="log"
        aria-label="Timeline"
        // Only what arrives at the end is said, not what scrolling brings.
        aria-live={looksAtEnd ? "polite" : "off"}
        aria-relevant="additions"
        onScroll={look}
        onWheel={() => {
          jumping.current = false;
        }}
        onTouchMove={() => {
          jumping.current = false;
        }}
        onKeyDown={pressed}
        onFocus={(event) => {
          const key = event.target.closest<HTMLElement>("article")?.dataset.key;
          if (key !== undefined) setCurrent(key);
        }}
      >
        <div className="grow" />
        <Virtualizer
          key={epoch}
          ref={list}
          as={Rows}
          scrollRef={scroller}
          data={shown}
          shift={shift}
          bufferSize={400}
          keepMounted={current === null || chosen < 0 ? NONE : [chosen]}
          onResize={resized}
        >
          {row}
        </Virtualizer>
      </div>
      <Loading
        direction="older"
        paging={jump.failed !== null ? null : jump.loading ? "loading" : paging.older}
        onAgain={() => load("older", true)}
      />
      {jump.failed !== null && (
        <div className="paging older" role="alert">
          {jump.failed}{" "}
          <button type="button" className="link" onClick={jump.again}>
            Try again
          </button>
        </div>
      )}
      <Loading direction="newer" paging={paging.newer} onAgain={() => load("newer", true)} />
      {!looksAtEnd && (
        <button type="button" className="button to-newest" onClick={toNewest}>
          <ArrowDown size={16} aria-hidden="true" /> Jump to newest
          {fresh > 0 && (
            <span className="badge strong">
              {fresh}
              <span className="hidden"> new</span>
            </span>
          )}
        </button>
      )}
    </div>
  );
}

const NONE: readonly number[] = [];

/** The rows as the list is to have them now; the next ones follow before anything is painted. */
function useShown(next: readonly Row[]): { shown: readonly Row[]; shift: boolean; epoch: number } {
  const before = useRef<{ rows: readonly Row[]; epoch: number }>({ rows: [], epoch: 0 });
  const [, again] = useReducer((count: number) => count + 1, 0);
  const step = stepTo(before.current.rows, next);
  const epoch = before.current.epoch + (step.anew ? 1 : 0);
  useLayoutEffect(() => {
    before.current = { rows: step.rows, epoch };
    if (step.more) again();
  });
  return { shown: step.rows, shift: step.shift, epoch };
}

function Beginning({ held: { room } }: { held: RoomState }) {
  return (
    <div className="beginning">
      <h2>{nameOf(room)}</h2>
      <p className="muted">
        {room.kind === "direct" ? `Here begins what you and ${nameOf(room)} write.` : "Here it begins."}
      </p>
    </div>
  );
}

function Loading({ direction, paging, onAgain }: { direction: Direction; paging: Paging; onAgain: () => void }) {
  if (paging === null) return null;
  if (paging === "loading") return <div className={`paging ${direction}`}>Loading…</div>;
  return (
    <div className={`paging ${direction}`} role="alert">
      {paging.failed}{" "}
      <button type="button" className="link" onClick={onAgain}>
        Try again
      </button>
    </div>
  );
}

function focusComposer(): void {
  document.querySelector<HTMLElement>(".composer textarea")?.focus();
}

function seqFrom(rows: readonly Row[], index: number): number | null {
  for (let at = Math.max(0, index); at < rows.length; at++) {
    const row = rows[at];
    if (row?.kind === "message" && row.unsent === null) return row.message.seq;
  }
  return null;
}

function indexOf(rows: readonly Row[], key: string | null): number | null {
  if (key === null) return null;
  const index = rows.findIndex((row) => row.key === key);
  return index < 0 ? null : index;
}

function lastMessage(rows: readonly Row[]): number {
  return rows.findLastIndex((row) => row.kind === "message");
}
