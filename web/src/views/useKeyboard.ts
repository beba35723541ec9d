import { type KeyboardEvent, type RefObject, useCallback, useLayoutEffect, useRef, useState } from "react";
import type { VirtualizerHandle } from "virtua";
import { indexOf, type MessageRow, type Row } from "./rows.ts";
import { mayDelete, type Tools } from "./tools.ts";
import type { Position } from "./useScroll.ts";

/** Frames within which a row that was scrolled to is there to be focused. */
const FOCUS_WITHIN = 30;

/** The row that the Tab key leads to, and the one that waits for the focus. */
export interface RowFocus {
  readonly current: string | null;
  readonly setCurrent: (key: string) => void;
  readonly wanted: RefObject<string | null>;
  /** Make a row the current one, and focus it when it is on the screen. */
  readonly set: (key: string) => void;
}

export function useRowFocus(): RowFocus {
  const [current, setCurrent] = useState<string | null>(null);
  const wanted = useRef<string | null>(null);
  const set = useCallback((key: string) => {
    wanted.current = key;
    setCurrent(key);
  }, []);
  return { current, setCurrent, wanted, set };
}

/** Moves between the messages by arrow keys, and acts on the focused one by a letter. */
export function useKeyboard(
  { tools, moderator }: { tools: Tools; moderator: boolean },
  rows: readonly Row[],
  { wanted, set }: RowFocus,
  position: Position,
  scroller: RefObject<HTMLDivElement | null>,
  list: RefObject<VirtualizerHandle | null>,
  { toFirst, toNewest }: { toFirst: () => void; toNewest: () => void },
): (event: KeyboardEvent) => void {
  // The list hides a row until its height is known, and a hidden element cannot have the focus.
  useLayoutEffect(() => {
    const attempt = (left: number) => {
      if (wanted.current === null) return;
      const article = scroller.current?.querySelector<HTMLElement>(`[data-key="${CSS.escape(wanted.current)}"]`);
      article?.focus({ preventScroll: true });
      if (article != null && document.activeElement === article) wanted.current = null;
      else if (left > 0) requestAnimationFrame(() => attempt(left - 1));
    };
    attempt(FOCUS_WITHIN);
  });

  const step = (from: number, by: 1 | -1) => {
    for (let at = from + by; at >= 0 && at < rows.length; at += by) {
      const row = rows[at];
      if (row?.kind !== "message") continue;
      position.stuck = false;
      set(row.key);
      list.current?.scrollToIndex(at, { align: "nearest" });
      return;
    }
  };

  return (event) => {
    const article = event.target instanceof HTMLElement && event.target.matches("article") ? event.target : null;
    if (event.key === "Escape" && !event.defaultPrevented) return focusComposer();
    const key = event.key.toLowerCase();
    if (article === null || event.metaKey || event.altKey) return;
    if (event.ctrlKey && key !== "home" && key !== "end") return;
    const index = indexOf(rows, article.dataset.key ?? "");
    const row = index === null ? undefined : rows[index];
    if (index === null || row?.kind !== "message") return;
    if (key === "arrowup") step(index, -1);
    else if (key === "arrowdown") step(index, 1);
    else if (key === "home") toFirst();
    else if (key === "end") toNewest();
    else if (!actOn(key, row, tools, moderator, article)) return;
    event.preventDefault();
  };
}

/** Act on the focused message by a letter. Returns whether there is such an action. */
export function actOn(
  key: string,
  { message, unsent }: MessageRow,
  tools: Tools,
  moderator: boolean,
  article: HTMLElement,
): boolean {
  if (unsent !== null || message.deleted) return false;
  if (key === "r") tools.reply(message);
  else if (key === "t" && tools.thread !== undefined) tools.thread(message);
  else if (key === "e" && message.sender === tools.me) tools.edit(message);
  else if (key === "delete" && mayDelete(message, tools.me, moderator)) tools.remove(message);
  else if (key === "+") article.querySelector<HTMLElement>(".actions .pick")?.click();
  else return false;
  return true;
}

function focusComposer(): void {
  document.querySelector<HTMLElement>(".composer textarea")?.focus();
}
