/** The parts of the composer above and below the text box. */
import { Pencil, Reply, X } from "lucide-react";
import { n, t, tx } from "../i18n.ts";
import { summaryOf } from "../text.ts";
import { DisplayName } from "./DisplayName.tsx";
import type { Target } from "./target.ts";
import { IconButton } from "./ui.tsx";

/** Characters of the quoted message */
const QUOTED = 120;

/** The message that is edited or replied to. */
export function TargetLine({ target, onCancel }: { target: Target; onCancel: () => void }) {
  return (
    <div className="target">
      {target.kind === "edit" ? <Pencil size={16} /> : <Reply size={16} />}
      <span className="ellipsis grow">
        {target.kind === "edit"
          ? t("Editing")
          : tx("Replying to {sender}", {
              sender: (
                <b>
                  <DisplayName room_id={target.message.room_id} username={target.message.sender} />
                </b>
              ),
            })}{" "}
        <bdi className="muted">{summaryOf(target.message, QUOTED)}</bdi>
      </span>
      <IconButton label={t("Cancel")} onClick={onCancel}>
        <X size={16} />
      </IconButton>
    </div>
  );
}

export function Hint({ id, left, error }: { id: string; left: number | null; error: string | null }) {
  return (
    <div id={id} className="hint" aria-live="polite">
      {left !== null && left < 0 && (
        <span className="error">{n("{count} character too long", "{count} characters too long", -left)}</span>
      )}
      {left !== null && left >= 0 && (
        <span className="muted">{n("{count} character left", "{count} characters left", left)}</span>
      )}
      {error !== null && <span className="error">{error}</span>}
    </div>
  );
}
