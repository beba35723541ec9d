import "../styles/shortcuts.css";
import { Fragment, useState } from "react";
import { Dialog } from "./ui.tsx";
import { chooseSingleKeys, loadSingleKeys } from "./useShortcuts.ts";

/** Every shortcut, for the list under `?`. `Alt` + arrows also work in the text box. */
const SHORTCUTS: readonly { readonly keys: readonly string[]; readonly does: string }[] = [
  { keys: ["?"], does: "Show this list" },
  { keys: ["Ctrl K"], does: "Go to a room, a topic or a person: type part of the name" },
  { keys: ["/", "Ctrl Shift F"], does: "Search messages" },
  { keys: ["Alt ↑", "Alt ↓"], does: "Previous, next room" },
  { keys: ["Alt Shift ↑", "Alt Shift ↓"], does: "Previous, next room with unread messages" },
  { keys: ["↑", "↓", "Home", "End"], does: "In the list of rooms: move between rooms" },
  { keys: ["C"], does: "Write a message" },
  { keys: ["Enter", "Shift Enter"], does: "Send; start a new line" },
  { keys: ["↑"], does: "In an empty message box: edit your last message" },
  { keys: ["Tab", "↑", "↓"], does: "Go to the timeline; move between messages" },
  { keys: ["Home", "End"], does: "In the timeline: first message, newest message" },
  { keys: ["R", "E", "+", "Delete"], does: "On a message: reply, edit, react, delete" },
  { keys: ["Escape"], does: "Close or cancel" },
];

export function ShortcutsDialog({ onClose }: { onClose: () => void }) {
  const [singleKeys, setSingleKeys] = useState(loadSingleKeys);
  const choose = (on: boolean) => {
    chooseSingleKeys(on);
    setSingleKeys(on);
  };
  return (
    <Dialog title="Keyboard shortcuts" onClose={onClose}>
      <dl className="shortcuts">
        {SHORTCUTS.map(({ keys, does }) => (
          <Fragment key={does}>
            <dt>
              {keys.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dt>
            <dd>{does}</dd>
          </Fragment>
        ))}
      </dl>
      <label className="check">
        <input type="checkbox" checked={singleKeys} onChange={(event) => choose(event.target.checked)} />
        Enable single-key shortcuts (?, / and C)
      </label>
    </Dialog>
  );
}
