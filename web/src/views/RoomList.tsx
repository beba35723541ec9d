import { ChevronDown, ChevronRight, Plus } from "lucide-react";
import {
  type KeyboardEvent,
  useCallback,
  useDeferredValue,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "react";
import { Virtualizer, type VirtualizerHandle } from "virtua";
import { useView } from "../context.ts";
import { open } from "../location.ts";
import { RoomRow } from "./RoomRow.tsx";
import { isOtherOnline, type Line, linesOf, type Section } from "./rooms.ts";
import { IconButton, Rows } from "./ui.tsx";
import { isForThePage } from "./useShortcuts.ts";

const ROW = 56;
const FOLDED = "tidings.folded";
const SECTIONS: Record<Section, { title: string; add: string }> = {
  topics: { title: "Topics", add: "New topic" },
  conversations: { title: "Conversations", add: "New conversation" },
};

/** The user's rooms, however many: only those in sight are in the page. Arrow keys go from one to the next. */
export function RoomList({ room_id, onNew }: { room_id: string | null; onNew: (section: Section) => void }) {
  // Deferred: many events a second must not hold up what one reads and writes.
  const rooms = useDeferredValue(useView((view) => view.state.rooms));
  const presence = useView((view) => view.state.presence);
  const connected = useView((view) => view.status.is === "online");
  const me = useView((view) => view.state.me);
  const [filter, setFilter] = useState("");
  const [folded, fold] = useFolded();
  const shownFilter = useDeferredValue(filter);
  const lines = useMemo(
    () => linesOf(rooms, { filter: shownFilter, folded, current: room_id }),
    [rooms, shownFilter, folded, room_id],
  );
  const list = useRef<HTMLDivElement>(null);
  const virtualizer = useRef<VirtualizerHandle>(null);
  const latest = useRef({ lines, room_id });
  latest.current = { lines, room_id };

  // The row that the Tab key comes to; it stays in the page when it is scrolled away, so that the focus is not lost.
  const [chosen, setChosen] = useState<string | null>(null);
  const reachable = indexOf(lines, chosen) ?? indexOf(lines, room_id) ?? step(lines, -1, 1);
  const [focusing, setFocusing] = useState<string | null>(null);
  useLayoutEffect(() => {
    if (focusing === null) return;
    list.current?.querySelector<HTMLElement>(`[data-room-id="${CSS.escape(focusing)}"]`)?.focus();
    setFocusing(null);
  }, [focusing]);
  const focus = useCallback((at: number | null) => {
    const room_id = roomAt(latest.current.lines, at);
    if (room_id === null) return;
    setChosen(room_id);
    setFocusing(room_id);
  }, []);

  useEffect(() => setChosen(room_id), [room_id]);
  const listed = indexOf(lines, room_id) !== null;
  useEffect(() => {
    const at = listed ? indexOf(latest.current.lines, room_id) : null;
    if (at !== null) virtualizer.current?.scrollToIndex(at, { align: "nearest" });
  }, [room_id, listed]);

  // Alt and an arrow, wherever the focus is: the room above or below; with Shift, one with something unread.
  useEffect(() => {
    const pressed = (event: globalThis.KeyboardEvent) => {
      if (!event.altKey || !isForThePage(event)) return;
      const direction = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : null;
      if (direction === null) return;
      event.preventDefault();
      const { lines, room_id } = latest.current;
      const here = indexOf(lines, room_id);
      const next = event.shiftKey
        ? nextUnread(lines, here ?? -1, direction)
        : step(lines, here ?? (direction === 1 ? -1 : lines.length), direction);
      const wanted = roomAt(lines, next);
      if (wanted !== null) open(wanted);
    };
    document.addEventListener("keydown", pressed);
    return () => document.removeEventListener("keydown", pressed);
  }, []);

  const moved = useCallback(
    (event: KeyboardEvent<HTMLAnchorElement>) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const { lines } = latest.current;
      const here = indexOf(lines, event.currentTarget.dataset.roomId ?? null) ?? -1;
      if (event.key === "ArrowDown") focus(step(lines, here, 1));
      else if (event.key === "ArrowUp") focus(step(lines, here, -1));
      else if (event.key === "Home") focus(step(lines, -1, 1));
      else if (event.key === "End") focus(step(lines, lines.length, -1));
      else return;
      event.preventDefault();
    },
    [focus],
  );
  const filtering = (event: KeyboardEvent) => {
    const first = step(lines, -1, 1);
    const room_id = roomAt(lines, first);
    if (event.key === "Escape") setFilter("");
    else if (event.key === "ArrowDown") focus(first);
    else if (event.key === "Enter" && filter !== "" && room_id !== null) {
      open(room_id);
      setFilter("");
    } else return;
    event.preventDefault();
  };

  return (
    <>
      <div className="filter">
        <input
          type="search"
          className="input"
          aria-label="Filter rooms"
          placeholder="Filter"
          autoComplete="off"
          spellCheck={false}
          value={filter}
          onChange={(event) => setFilter(event.target.value)}
          onKeyDown={filtering}
        />
      </div>
      <div ref={list} className="room-list">
        <Virtualizer
          ref={virtualizer}
          as={Rows}
          itemSize={ROW}
          keepMounted={reachable === null ? [] : [reachable]}
          data={lines}
        >
          {(line, at) =>
            line.kind === "heading" ? (
              <Heading
                key={line.section}
                section={line.section}
                folded={line.folded}
                onFold={() => fold(line.section)}
                onNew={() => onNew(line.section)}
              />
            ) : (
              <RoomRow
                key={line.held.room.room_id}
                held={line.held}
                me={me}
                current={line.held.room.room_id === room_id}
                online={connected && isOtherOnline(line.held, presence)}
                reachable={at === reachable}
                onKeyDown={moved}
              />
            )
          }
        </Virtualizer>
        {lines.length === 0 && <p className="none muted">None of your rooms has that in its name.</p>}
      </div>
    </>
  );
}

function Heading({
  section,
  folded,
  onFold,
  onNew,
}: {
  section: Section;
  folded: boolean;
  onFold: () => void;
  onNew: () => void;
}) {
  const { title, add } = SECTIONS[section];
  return (
    <div className="section-heading">
      <h2>
        <button type="button" aria-expanded={!folded} onClick={onFold}>
          {folded ? <ChevronRight size={16} /> : <ChevronDown size={16} />}
          {title}
        </button>
      </h2>
      <IconButton label={add} onClick={onNew}>
        <Plus size={18} />
      </IconButton>
    </div>
  );
}

/** The sections that are folded, also after a reload. */
function useFolded(): [ReadonlySet<Section>, (section: Section) => void] {
  const [folded, setFolded] = useState<ReadonlySet<Section>>(
    () =>
      new Set((localStorage.getItem(FOLDED) ?? "").split(" ").filter((word): word is Section => word in SECTIONS)),
  );
  const fold = (section: Section) => {
    const next = new Set(folded);
    if (!next.delete(section)) next.add(section);
    localStorage.setItem(FOLDED, [...next].join(" "));
    setFolded(next);
  };
  return [folded, fold];
}

function indexOf(lines: readonly Line[], room_id: string | null): number | null {
  if (room_id === null) return null;
  const at = lines.findIndex((line) => line.kind === "room" && line.held.room.room_id === room_id);
  return at === -1 ? null : at;
}

function roomAt(lines: readonly Line[], at: number | null): string | null {
  const line = at === null ? undefined : lines[at];
  return line?.kind === "room" ? line.held.room.room_id : null;
}

/** The next line that is a room; null at the end. */
function step(lines: readonly Line[], from: number, direction: 1 | -1): number | null {
  for (let at = from + direction; at >= 0 && at < lines.length; at += direction)
    if (lines[at]?.kind === "room") return at;
  return null;
}

/** The next line with something unread, around the end if need be. */
function nextUnread(lines: readonly Line[], from: number, direction: 1 | -1): number | null {
  for (let steps = 1; steps <= lines.length; steps++) {
    const at = (((from + direction * steps) % lines.length) + lines.length) % lines.length;
    const line = lines[at];
    if (line?.kind === "room" && line.held.room.unread > 0) return at;
  }
  return null;
}
