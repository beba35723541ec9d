import { type RefObject, useEffect, useLayoutEffect, useRef } from "react";
import type { Target } from "./target.ts";

export interface Box {
  readonly ref: RefObject<HTMLTextAreaElement | null>;
  /** Focus the box, with the caret at this offset, once the new text is in it. */
  readonly focusAt: (caret: number) => void;
}

/** The text box: it grows with its text, and has the focus when the person is about to write. */
export function useBox(text: string, target: Target | null): Box {
  const ref = useRef<HTMLTextAreaElement>(null);

  // Opening a room means writing in it. On a touch screen the keyboard would cover the messages.
  useEffect(() => {
    if (isTouchScreen()) return;
    // The dialog that opened the room gives the focus back first.
    const frame = requestAnimationFrame(() => ref.current?.focus({ preventScroll: true }));
    return () => cancelAnimationFrame(frame);
  }, []);

  useEffect(() => {
    // The person may be writing already, or may click into the box before the next frame.
    const hasFocus = () => document.activeElement === ref.current;
    if (target === null || hasFocus()) return;
    // The menu or button that set the target gives the focus back first.
    const frame = requestAnimationFrame(() => {
      if (hasFocus()) return;
      ref.current?.focus();
      ref.current?.setSelectionRange(ref.current.value.length, ref.current.value.length);
    });
    return () => cancelAnimationFrame(frame);
  }, [target]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: the height follows the text
  useLayoutEffect(() => {
    const area = ref.current;
    if (area === null) return;
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
  }, [text]);

  const focusAt = (caret: number) => {
    requestAnimationFrame(() => {
      ref.current?.focus();
      ref.current?.setSelectionRange(caret, caret);
    });
  };
  return { ref, focusAt };
}

/** Whether the keyboard is on the screen. */
export function isTouchScreen(): boolean {
  return window.matchMedia("(pointer: coarse)").matches;
}
