import { ArrowDown, ArrowUp, ChevronDown, ChevronRight, MessagesSquare, Plus } from "lucide-react";
import {
  type KeyboardEvent,
  type RefObject,
  useCallback,
  useDeferredValue,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "react";
import { Virtualizer, type VirtualizerHandle } from "virtua";
import { useClient, useView } from "../context.ts";
import { m, t } from "../i18n.ts";
import { open } from "../location.ts";
import { unreadInThreads } from "../threads.ts";
import type { Other, Others } from "./Elsewhere.tsx";
import { lazy } from "./lazy.tsx";
import { RoomRow } from "./RoomRow.tsx";
import { isOtherOnline, type Line, linesOf, type OutOfSight, type Section, unreadOutOfSight } from "./rooms.ts";
import { IconButton, Rows } from "./ui.tsx";
import { focusBox, goBack, isForThePage } from "./useShortcuts.ts";

const loadElsewhere = () => import("./Elsewhere.tsx");
// Without its code, the filter finds only the user's rooms.
const Elsewhere = lazy(
  () => loadElsewhere().then((part) => part.Elsewhere),
  () => null,
);

/** The height of most rows, as in sidebar.css */
const ROW = 2 * Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
const still = window.matchMedia("(prefers-reduced-motion: reduce)");
const NAMES: Record<string, { title: string; add?: string }> = {
  unread: { title: m("Unread") },
  favourites: { title: m("Favourites") },
  direct: { title: m("Direct"), add: m("New conversation") },
  topics: { title: m("Topics"), add: m("New topic") },
};

/** The user's rooms in a virtual list. Arrow keys move between them. */
export function RoomList({
  room_id,
  onThreads,
  onNew,
}: {
  room_id: string | null;
  onThreads: () => void;
  onNew: (section: Section) => void;
}) {
  // Deferred: many events a second must not delay reading and typing.
  const rooms = useDeferredValue(useView((view) => view.state.rooms));
  const presence = useView((view) => view.state.presence);
  const connected = useView((view) => view.status.is === "online");
  const me = useView((view) => view.state.me);
  const [filter, setFilter] = useState("");
  const folded = useView((view) => view.folded);
  const client = useClient();
  const shownFilter = useDeferredValue(filter);
  const lines = useMemo(
    () => linesOf(rooms, { filter: shownFilter, folded, current: room_id, me }),
    [rooms, shownFilter, folded, room_id, me],
  );
  const list = useRef<HTMLDivElement>(null);
  const virtualizer = useRef<VirtualizerHandle>(null);
  const latest = useRef({ lines, room_id });
  latest.current = { lines, room_id };

  // The row that the Tab key leads to. It stays mounted when it is scrolled away, so that the focus is not lost.
  const [chosen, setChosen] = useState<string | null>(null);
  const reachable = indexOf(lines, chosen) ?? indexOf(lines, room_id) ?? step(lines, -1, 1);
  const [focusing, setFocusing] = useState<string | null>(null);
  useLayoutEffect(() => {
    if (focusing === null) return;
    list.current?.querySelector<HTMLElement>(`[data-room-id="${CSS.escape(focusing)}"]`)?.focus();
    setFocusing(null);
  }, [focusing]);
  const focus = useCallback((room_id: string | null) => {
    if (room_id === null) return;
    setChosen(room_id);
    setFocusing(room_id);
  }, []);

  useEffect(() => setChosen(room_id), [room_id]);
  const filtered = shownFilter !== "";
  const listed = indexOf(lines, room_id) !== null;
  const last = room_id === null ? null : (rooms.get(room_id)?.room.last_message ?? null);
  // A message of one's own moves the open room to the top.
  const moves = last?.sender === me ? last.id : null;
  const follow = useCallback(() => {
    const { lines, room_id } = latest.current;
    const at = indexOf(lines, room_id);
    if (at !== null) virtualizer.current?.scrollToIndex(at, { align: "nearest" });
  }, []);
  // biome-ignore lint/correctness/useExhaustiveDependencies: when another room is open, it is listed again, or the list is whole again
  useEffect(follow, [room_id, listed, filtered]);
  useEffect(() => {
    if (moves !== null) follow();
  }, [moves, follow]);

  useNeighbours(latest);
  const moved = useCallback(
    (event: KeyboardEvent<HTMLAnchorElement>) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const { lines } = latest.current;
      const here = indexOf(lines, event.currentTarget.dataset.roomId ?? null) ?? -1;
      const go = (from: number, direction: 1 | -1) => {
        const to = step(lines, from, direction);
        if (to === null && direction === 1) focusElsewhere(list.current);
        else focus(roomAt(lines, to));
      };
      if (event.key === "ArrowDown") go(here, 1);
      else if (event.key === "ArrowUp") go(here, -1);
      else if (event.key === "Home") go(-1, 1);
      else if (event.key === "End") go(lines.length, -1);
      else return;
      event.preventDefault();
    },
    [focus],
  );
  const hidden = useOutOfSight(lines, me, list, virtualizer);
  const show = (at: number, align: "start" | "end") => glide(list.current, virtualizer.current, at, align);
  const { others, choose, chooseFor } = useOthers(() => setFilter(""));
  const filtering = (event: KeyboardEvent<HTMLInputElement>) => {
    // The rows may still be those of an earlier filter.
    const filter = event.currentTarget.value;
    const matching = filter === shownFilter ? lines : linesOf(rooms, { filter, folded, current: room_id, me });
    const first = roomAt(matching, step(matching, -1, 1));
    if (event.key === "Escape") {
      setFilter("");
      goBack();
    } else if (event.key === "ArrowDown" && first === null) focusElsewhere(list.current);
    else if (event.key === "ArrowDown") focus(first);
    else if (event.key === "Enter" && first !== null && filter !== "") {
      if (first === room_id) focusBox();
      else open(first);
      setFilter("");
    } else if (event.key === "Enter" && filter.trim() !== "")
      // Offline, Enter finds nothing here.
      void chooseFor(event.currentTarget).catch(() => undefined);
    else return;
    event.preventDefault();
  };

  return (
    <>
      <div className="filter">
        <input
          type="search"
          className="input"
          aria-label={t("Filter rooms")}
          placeholder={t("Go to a room")}
          data-tip={t("Go to a room")}
          data-keys="Ctrl K"
          autoComplete="off"
          spellCheck={false}
          value={filter}
          onChange={(event) => setFilter(event.target.value)}
          onKeyDown={filtering}
        />
      </div>
      <ThreadsButton onPress={onThreads} />
      <div className="room-list-frame">
        {hidden.above !== null && <Unread hidden={hidden.above} where="above" onShow={show} />}
        {/* biome-ignore lint/a11y/noStaticElementInteractions: the links in it are what is pressed */}
        {/* biome-ignore lint/a11y/useKeyWithClickEvents: Enter on a link is a click */}
        <div
          ref={list}
          className="room-list"
          onScroll={hidden.look}
          // After a choice, the filter would only hide the other rooms.
          onClick={(event) => event.target instanceof Element && event.target.closest("a") !== null && setFilter("")}
        >
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
                  onFold={() => void client.folded.set(toggled(folded, line.section))}
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
          {lines.length === 0 && <p className="none muted">{t("No room of yours has a name like this.")}</p>}
          {filter.trim() !== "" && (
            <Elsewhere
              filter={filter}
              found={others}
              onChoose={choose}
              onLeave={() => focus(roomAt(lines, step(lines, lines.length, -1)))}
            />
          )}
        </div>
        {hidden.below !== null && <Unread hidden={hidden.below} where="below" onShow={show} />}
      </div>
    </>
  );
}

/** Leads to the threads that the user follows, if there are any. */
function ThreadsButton({ onPress }: { onPress: () => void }) {
  const any = useView(({ state }) => [...state.threads.values()].some(({ following }) => following));
  const unread = useView(({ state }) => unreadInThreads(state.threads));
  if (!any) return null;
  return (
    <button type="button" className={`threads-button ${unread > 0 ? "unread" : ""}`} onClick={onPress}>
      <MessagesSquare size={18} aria-hidden="true" />
      <span className="grow">{t("Threads")}</span>
      {unread > 0 && (
        <span className="badge strong">
          {unread > 99 ? "99+" : unread}
          <span className="hidden"> {t("unread.")}</span>
        </span>
      )}
    </button>
  );
}

/** Alt and an arrow, wherever the focus is: the room above or below; with Shift, the next unread one. */
function useNeighbours(latest: RefObject<{ lines: readonly Line[]; room_id: string | null }>): void {
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
  }, [latest]);
}

/** Chooses what a filter finds besides the rooms. */
function useOthers(onChosen: () => void) {
  const client = useClient();
  const others = useRef<Others | null>(null);
  // Refused, for example by a block: the filter stays as it is.
  const choose = (other: Other) => void other.choose().then(onChosen, () => undefined);
  /** Take the best one as soon as it is known, unless the filter has changed by then. */
  const chooseFor = async (field: HTMLInputElement) => {
    const filter = field.value;
    const shown = others.current;
    const isKnown = shown?.filter === filter && shown.isWhole;
    const other = isKnown ? shown.best : await loadElsewhere().then(({ best }) => best(client, filter));
    if (other !== null && field.value === filter) choose(other);
  };
  return { others, choose, chooseFor };
}

/** Focus the first of what a filter finds besides the rooms. */
function focusElsewhere(list: HTMLElement | null): void {
  list?.querySelector<HTMLElement>(".elsewhere button")?.focus();
}

/** Scroll smoothly to a line. The list stops that when it learns the height of a row on the way: then it jumps there. */
function glide(list: HTMLElement | null, handle: VirtualizerHandle | null, at: number, align: "start" | "end"): void {
  if (list === null || handle === null) return;
  const arrive = () => handle.scrollToIndex(at, { align });
  if (still.matches || !("onscrollend" in window)) return arrive();
  const before = align === "start" ? 0 : list.clientHeight - handle.getItemSize(at);
  list.addEventListener("scrollend", arrive, { once: true });
  list.scrollTo({ top: handle.getItemOffset(at) - before, behavior: "smooth" });
}

/** A button that shows unread rooms outside the visible part, and scrolls to them. */
function Unread({
  hidden: { count, personal, nearest },
  where,
  onShow,
}: {
  hidden: OutOfSight;
  where: "above" | "below";
  onShow: (at: number, align: "start" | "end") => void;
}) {
  const Arrow = where === "above" ? ArrowUp : ArrowDown;
  const show = () => onShow(nearest, where === "above" ? "end" : "start");
  return (
    <button type="button" className={`button primary pill ${where}`} onClick={show}>
      <Arrow size={15} aria-hidden="true" />{" "}
      {personal > 0 ? t("{count} unread, {personal} for you", { count, personal }) : t("{count} unread", { count })}
      <span className="hidden"> {where === "above" ? t("above") : t("below")}</span>
    </button>
  );
}

/** The unread rooms above and below the visible part of the list; call `look` after scrolling. */
function useOutOfSight(
  lines: readonly Line[],
  me: string,
  list: RefObject<HTMLDivElement | null>,
  virtualizer: RefObject<VirtualizerHandle | null>,
) {
  const [sight, setSight] = useState<readonly [first: number, last: number]>([0, Number.POSITIVE_INFINITY]);
  const look = useCallback(() => {
    const [element, handle] = [list.current, virtualizer.current];
    if (element === null || handle === null) return;
    // A line counts as visible if half of it is.
    const first = handle.findItemIndex(element.scrollTop + ROW / 2);
    const last = handle.findItemIndex(element.scrollTop + element.clientHeight - ROW / 2);
    setSight((before) => (before[0] === first && before[1] === last ? before : [first, last]));
  }, [list, virtualizer]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: when there are other lines
  useLayoutEffect(look, [lines, look]);
  useEffect(() => {
    if (list.current === null) return;
    const observer = new ResizeObserver(look);
    observer.observe(list.current);
    return () => observer.disconnect();
  }, [list, look]);
  return { ...useMemo(() => unreadOutOfSight(lines, me, ...sight), [lines, me, sight]), look };
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
  const { title, add } = NAMES[section] ?? { title: null, add: undefined };
  return (
    <div className="section-heading">
      <h2>
        <button type="button" aria-expanded={!folded} onClick={onFold}>
          {folded ? <ChevronRight size={14} /> : <ChevronDown size={14} />}
          {title === null ? <bdi className="ellipsis">{section.slice("own ".length)}</bdi> : t(title)}
        </button>
      </h2>
      {add !== undefined && (
        <IconButton label={t(add)} onClick={onNew}>
          <Plus size={16} />
        </IconButton>
      )}
    </div>
  );
}

function toggled(sections: ReadonlySet<string>, section: Section): Set<string> {
  const next = new Set(sections);
  if (!next.delete(section)) next.add(section);
  return next;
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

/** The next unread line, continuing at the other end. */
function nextUnread(lines: readonly Line[], from: number, direction: 1 | -1): number | null {
  for (let steps = 1; steps <= lines.length; steps++) {
    const at = (((from + direction * steps) % lines.length) + lines.length) % lines.length;
    const line = lines[at];
    if (line?.kind === "room" && line.held.room.unread > 0) return at;
  }
  return null;
}
