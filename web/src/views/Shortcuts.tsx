import "../styles/shortcuts.css";
import { Fragment, useState } from "react";
import { m, t } from "../i18n.ts";
import { keysOf } from "../text.ts";
import { Dialog } from "./ui.tsx";
import { chooseSingleKeys, loadSingleKeys } from "./useShortcuts.ts";

/** Every shortcut, for the list under `?`. `Alt` + arrows also work in the text box. */
const SHORTCUTS: readonly { readonly keys: readonly string[]; readonly does: string }[] = [
  { keys: ["?"], does: m("Show this list") },
  { keys: ["Ctrl K"], does: m("Go to a room, a topic or a person: type part of the name") },
  { keys: ["/", "Ctrl Shift F"], does: m("Search messages") },
  { keys: ["Alt ↑", "Alt ↓"], does: m("Previous, next room") },
  { keys: ["Alt Shift ↑", "Alt Shift ↓"], does: m("Previous, next room with unread messages") },
  { keys: ["↑", "↓", "Home", "End"], does: m("In the list of rooms: move between rooms") },
  { keys: ["C"], does: m("Write a message") },
  { keys: ["Enter", "Shift Enter"], does: m("Send; start a new line") },
  { keys: ["Ctrl B", "Ctrl I", "Ctrl E"], does: m("Bold, italic, code") },
  { keys: ["<", ">"], does: m("Around a link: show no preview of its page") },
  { keys: ["↑"], does: m("In an empty message box: edit your last message") },
  { keys: ["Tab", "↑", "↓"], does: m("Go to the timeline; move between messages") },
  { keys: ["Home", "End"], does: m("In the timeline: first message, newest message") },
  { keys: ["R", "E", "+", "Delete"], does: m("On a message: reply, edit, react, delete") },
  { keys: ["Escape"], does: m("Close or cancel") },
];

export function ShortcutsDialog({ onClose }: { onClose: () => void }) {
  const [singleKeys, setSingleKeys] = useState(loadSingleKeys);
  const choose = (on: boolean) => {
    chooseSingleKeys(on);
    setSingleKeys(on);
  };
  return (
    <Dialog title={t("Keyboard shortcuts")} onClose={onClose}>
      <dl className="shortcuts">
        {SHORTCUTS.map(({ keys, does }) => (
          <Fragment key={does}>
            <dt>
              {keys.map((key) => (
                <kbd key={key}>{keysOf(key)}</kbd>
              ))}
            </dt>
            <dd>{t(does)}</dd>
          </Fragment>
        ))}
      </dl>
      <label className="check">
        <input type="checkbox" checked={singleKeys} onChange={(event) => choose(event.target.checked)} />
        {t("Enable single-key shortcuts (?, / and C)")}
      </label>
    </Dialog>
  );
}
