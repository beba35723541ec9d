import { useEffect, useRef } from "react";

/** Every shortcut, as the list under `?` shows it. `Alt` + arrows work while one writes, too. */
export const SHORTCUTS: readonly { readonly keys: readonly string[]; readonly does: string }[] = [
  { keys: ["?"], does: "Show this list" },
  { keys: ["/", "Ctrl K"], does: "Search" },
  { keys: ["Alt ↑", "Alt ↓"], does: "The room above, below" },
  { keys: ["Alt Shift ↑", "Alt Shift ↓"], does: "The same, only rooms with something unread" },
  { keys: ["↑", "↓", "Home", "End"], does: "From room to room, in the list of rooms" },
  { keys: ["C"], does: "Write" },
  { keys: ["Enter", "Shift Enter"], does: "Send; a new line" },
  { keys: ["↑"], does: "Edit what you sent last, in an empty box" },
  { keys: ["Tab", "↑", "↓"], does: "To the timeline, and from message to message" },
  { keys: ["R", "E", "+", "Delete"], does: "Reply, edit, react, delete: on a message" },
  { keys: ["Escape"], does: "Close, or give up what you are doing" },
];

const SINGLE_KEYS = "tidings.single_keys";

/** Whether single keys do something. They can be turned off: who speaks to the page may press them unawares. */
export function loadSingleKeys(): boolean {
  return localStorage.getItem(SINGLE_KEYS) !== "off";
}

export function chooseSingleKeys(on: boolean): void {
  if (on) localStorage.removeItem(SINGLE_KEYS);
  else localStorage.setItem(SINGLE_KEYS, "off");
}

/** Whether a key goes to the page as a whole: no dialog or menu is open, and nothing else has taken it. */
export function isForThePage(event: KeyboardEvent): boolean {
  return !event.defaultPrevented && document.querySelector("[role=dialog], [role=menu]") === null;
}

/** The keys that do something wherever one is. Those that go from room to room are the sidebar's: it knows their order. */
export function useShortcuts(does: { onHelp: () => void; onSearch: () => void }): void {
  const latest = useRef(does);
  latest.current = does;
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      if (!isForThePage(event)) return;
      const writing = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") latest.current.onSearch();
      else if (writing || event.ctrlKey || event.metaKey || event.altKey || !loadSingleKeys()) return;
      else if (event.key === "?") latest.current.onHelp();
      else if (event.key === "/") latest.current.onSearch();
      else if (event.key.toLowerCase() === "c") document.querySelector<HTMLElement>(".composer textarea")?.focus();
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", pressed);
    return () => document.removeEventListener("keydown", pressed);
  }, []);
}
