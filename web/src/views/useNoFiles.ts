import { useEffect, useRef } from "react";

/** Refuse dropped or pasted files that no composer has taken: the browser would open a dropped one instead of the page. */
export function useNoFiles(refused: () => void): void {
  const latest = useRef(refused);
  latest.current = refused;
  useEffect(() => {
    const has = (event: Event, data: DataTransfer | null) =>
      !event.defaultPrevented && data?.types.includes("Files") === true;
    const over = (event: DragEvent) => {
      // With a `dropEffect` of "none" there would be no `drop`, and so no message.
      if (has(event, event.dataTransfer)) event.preventDefault();
    };
    const dropped = (event: DragEvent) => {
      if (!has(event, event.dataTransfer)) return;
      event.preventDefault();
      latest.current();
    };
    const pasted = (event: ClipboardEvent) => {
      // A copied table has both text and an image: paste the text.
      if (!has(event, event.clipboardData) || event.clipboardData?.types.includes("text/plain")) return;
      event.preventDefault();
      latest.current();
    };
    window.addEventListener("dragover", over);
    window.addEventListener("drop", dropped);
    window.addEventListener("paste", pasted);
    return () => {
      window.removeEventListener("dragover", over);
      window.removeEventListener("drop", dropped);
      window.removeEventListener("paste", pasted);
    };
  }, []);
}
