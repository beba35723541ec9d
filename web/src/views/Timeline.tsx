import { useEffect, useLayoutEffect, useMemo, useReducer, useRef } from "react";
import { Virtualizer, type VirtualizerHandle } from "virtua";
import { useClient, useRoom, useView } from "../context.ts";
import { t } from "../i18n.ts";
import type { RoomState } from "../store.ts";
import { segmentAt, tailOf } from "../timeline.ts";
import { isIn } from "../unsent.ts";
import { MessageRow } from "./MessageRow.tsx";
import { marksFor } from "./marks.ts";
import { countAfter, indexOf, lastMessage, type Row, rowsOf, stepTo } from "./rows.ts";
import { Finished } from "./Streaming.tsx";
import { Beginning, Failed, Line, Loading, ToNew, ToNewest } from "./TimelineParts.tsx";
import type { Tools } from "./tools.ts";
import { Rows } from "./ui.tsx";
import { useKeyboard, useRowFocus } from "./useKeyboard.ts";
import { useLanding } from "./useLanding.ts";
import { usePaging } from "./usePaging.ts";
import { useReply } from "./useReply.ts";
import { type Position, useScroll } from "./useScroll.ts";
import { useNew } from "./useSeen.ts";

/** With fewer unread messages than this, a room opens at its end. */
const FEW_NEW = 6;

export interface TimelineProps {
  room_id: string;
  seq: number | null;
  tools: Tools;
  moderator: boolean;
  onInvite: () => void;
  onCopyLink: () => void;
}

/** The messages of a room: the end of its log, or the part of it around the message in the address. */
export function Timeline(props: TimelineProps) {
  const held = useRoom(props.room_id);
  return held === undefined ? null : <Log {...props} held={held} />;
}

function Log(props: TimelineProps & { held: RoomState }) {
  const { room_id, held, seq, tools, moderator } = props;
  const client = useClient();
  const unsent = useView((view) => view.unsent);
  const waiting = useMemo(
    () => unsent.filter((one) => one.room_id === room_id && isIn(one, undefined)),
    [unsent, room_id],
  );
  const scroller = useRef<HTMLDivElement>(null);
  const list = useRef<VirtualizerHandle>(null);
  const position = usePosition(held, seq);

  const tail = tailOf(held.segments);
  const segment = (position.seq === null ? null : segmentAt(held.segments, position.seq)) ?? tail;
  const isTail = segment === tail;
  const fresh = useNew(held);
  const newAfter = fresh?.after ?? null;
  const { notes } = held;
  const next = useMemo(
    () => rowsOf({ segment, me: client.me, newAfter, notes, unsent: isTail ? waiting : [] }),
    [segment, client, newAfter, notes, isTail, waiting],
  );
  const { rows, shift, epoch } = useSteps(next);
  const shown = { rows, segment, isTail, newAfter };

  const { paging, load } = usePaging(room_id, segment, isTail);
  const scroll = useScroll(room_id, position, scroller, list, shown, paging, load);
  const focus = useRowFocus();
  const { jump, highlighted, ...jumps } = useLanding(props, position, list, shown, scroll, focus);
  const pressed = useKeyboard(props, rows, focus, position, scroller, list, jumps);

  // A person who sends a message wants to see it.
  const sent = useRef(waiting.length);
  // biome-ignore lint/correctness/useExhaustiveDependencies: runs when a message is added
  useEffect(() => {
    if (waiting.length > sent.current) jumps.toNewest();
    sent.current = waiting.length;
  }, [waiting]);

  const looksAtEnd = scroll.atEnd && isTail;
  const seenTo = useRef(tail.to);
  if (looksAtEnd) seenTo.current = tail.to;
  const unseen = looksAtEnd ? 0 : countAfter(tail, seenTo.current, client.me);
  const current = indexOf(rows, focus.current) ?? lastMessage(rows);

  const replied = useReply(held.segments);
  const marks = useMemo(() => marksFor(held), [held]);
  const row = (row: Row) => {
    if (row.kind === "beginning") return <Beginning key={row.key} me={client.me} {...props} />;
    if (row.kind !== "message") return <Line key={row.key} row={row} />;
    const receipt = row.unsent === null && row.message.sender === client.me ? marks(row.message.seq) : null;
    return (
      <MessageRow
        key={row.key}
        row={row}
        tools={tools}
        moderator={moderator}
        mark={receipt?.mark ?? null}
        readBy={receipt?.readBy ?? ""}
        replied={replied(row.message)}
        highlighted={highlighted === row.message.seq && row.unsent === null}
        current={row === rows[current]}
      />
    );
  };
  const takeOver = () => {
    position.jumping = false;
  };

  return (
    <div className="timeline">
      <div
        ref={scroller}
        className="scroller"
        role="log"
        aria-label={t("Timeline")}
        // A screen reader announces messages that arrive at the end, not those that scrolling loads.
        aria-live={looksAtEnd ? "polite" : "off"}
        aria-relevant="additions"
        onScroll={scroll.look}
        onWheel={takeOver}
        onTouchMove={takeOver}
        onKeyDown={pressed}
        onFocus={(event) => {
          const key = event.target.closest<HTMLElement>("article")?.dataset.key;
          if (key !== undefined) focus.setCurrent(key);
        }}
      >
        <div className="grow" />
        <Virtualizer
          key={epoch}
          ref={list}
          as={Rows}
          scrollRef={scroller}
          data={rows}
          shift={shift}
          bufferSize={400}
          keepMounted={focus.current === null || current < 0 ? NONE : [current]}
          onResize={scroll.resized}
        >
          {row}
        </Virtualizer>
      </div>
      <Finished messages={tail.messages} seen={looksAtEnd} />
      <Loading
        direction="older"
        paging={jump.failed !== null ? null : jump.loading ? "loading" : paging.older}
        onAgain={() => load("older", true)}
      />
      {jump.failed !== null && <Failed direction="older" why={jump.failed} onAgain={jump.again} />}
      <Loading direction="newer" paging={paging.newer} onAgain={() => load("newer", true)} />
      {scroll.newIsAbove && fresh !== null && fresh.count > 0 && (
        <ToNew
          count={fresh.count}
          // Offline, the button stays and can be pressed again.
          onPress={() => void jumps.toNew(fresh.after + 1).catch(() => undefined)}
        />
      )}
      {!looksAtEnd && <ToNewest fresh={unseen} onPress={jumps.toNewest} />}
    </div>
  );
}

const NONE: readonly number[] = [];

/** The position at which a room opens: the first unread message if there are many, otherwise the end. */
function usePosition({ room }: RoomState, seq: number | null): Position {
  const opening = seq === null && room.unread >= FEW_NEW ? room.read_seq + 1 : null;
  return useRef<Position>({
    seq: null,
    opening,
    stuck: opening === null,
    offset: 0,
    jumping: opening !== null,
    seenLine: null,
  }).current;
}

/** The rows that the list gets in this render, which are one step (`stepTo`) from those of the render before. */
function useSteps(next: readonly Row[]): { rows: readonly Row[]; shift: boolean; epoch: number } {
  const before = useRef<{ rows: readonly Row[]; epoch: number }>({ rows: [], epoch: 0 });
  const [, again] = useReducer((count: number) => count + 1, 0);
  const step = stepTo(before.current.rows, next);
  const epoch = before.current.epoch + (step.anew ? 1 : 0);
  useLayoutEffect(() => {
    before.current = { rows: step.rows, epoch };
    if (step.more) again();
  });
  return { rows: step.rows, shift: step.shift, epoch };
}
