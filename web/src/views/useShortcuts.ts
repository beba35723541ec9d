import { useEffect, useRef } from "react";
import { open } from "../location.ts";

const SINGLE_KEYS = "tidings.single_keys";

/** Whether single-key shortcuts are on. They can be turned off, because dictated text may trigger them. */
export function loadSingleKeys(): boolean {
  return localStorage.getItem(SINGLE_KEYS) !== "off";
}

export function chooseSingleKeys(on: boolean): void {
  if (on) localStorage.removeItem(SINGLE_KEYS);
  else localStorage.setItem(SINGLE_KEYS, "off");
}

/** Whether a key is for the whole page: no dialog or menu is open, and no element has handled it. */
export function isForThePage(event: KeyboardEvent): boolean {
  return !event.defaultPrevented && document.querySelector("[role=dialog], [role=menu]") === null;
}

/** Focus the box for a new message, if a room is open. */
export function focusBox(): void {
  document.querySelector<HTMLElement>(".composer textarea")?.focus();
}

/** Where the focus was before it went to the filter */
let cameFrom: Element | null = null;

/** Give the focus back that Ctrl K took. */
export function goBack(): void {
  if (cameFrom instanceof HTMLElement && cameFrom.isConnected) cameFrom.focus();
  cameFrom = null;
}

function goToRooms(): void {
  const filter = () => document.querySelector<HTMLInputElement>(".sidebar .filter input");
  if (document.activeElement !== filter()) cameFrom = document.activeElement;
  // On a phone, the sidebar is hidden while a room is open.
  if (filter()?.checkVisibility() === false) open(null);
  // Immediately if it is there, so that no key is lost.
  const focus = () => {
    filter()?.focus();
    filter()?.select();
  };
  focus();
  if (document.activeElement !== filter()) requestAnimationFrame(focus);
}

/** The keys that work everywhere. The sidebar handles those that switch rooms, because it knows their order. */
export function useShortcuts(does: { onHelp: () => void; onSearch: () => void }): void {
  const latest = useRef(does);
  latest.current = does;
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      if (!isForThePage(event)) return;
      const writing = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
      const [key, control] = [event.key.toLowerCase(), event.ctrlKey || event.metaKey];
      if (control && !event.shiftKey && key === "k") goToRooms();
      else if (control && event.shiftKey && key === "f") latest.current.onSearch();
      else if (writing || event.ctrlKey || event.metaKey || event.altKey || !loadSingleKeys()) return;
      else if (event.key === "?") latest.current.onHelp();
      else if (event.key === "/") latest.current.onSearch();
      else if (key === "c") focusBox();
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", pressed);
    return () => document.removeEventListener("keydown", pressed);
  }, []);
}
