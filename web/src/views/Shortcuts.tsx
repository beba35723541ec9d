import "../styles/shortcuts.css";
import { Fragment, useState } from "react";
import { Dialog } from "./ui.tsx";
import { chooseSingleKeys, loadSingleKeys, SHORTCUTS } from "./useShortcuts.ts";

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
