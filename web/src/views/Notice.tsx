import { X } from "lucide-react";
import { useEffect } from "react";
import { t } from "../i18n.ts";
import { IconButton } from "./ui.tsx";

const SHOWN_FOR = 6000;

export interface Told {
  readonly text: string;
  /** Takes the action back. */
  readonly undo?: () => void;
}

/** A sentence about the last action, which disappears after a while. */
export function Notice({ notice, onClose }: { notice: Told; onClose: () => void }) {
  // biome-ignore lint/correctness/useExhaustiveDependencies: the time begins with each notice
  useEffect(() => {
    const timer = setTimeout(onClose, SHOWN_FOR);
    return () => clearTimeout(timer);
  }, [notice]);
  return (
    <div className="notice" role="status">
      <span>{notice.text}</span>
      {notice.undo !== undefined && (
        <button
          type="button"
          className="button"
          onClick={() => {
            notice.undo?.();
            onClose();
          }}
        >
          {t("Undo")}
        </button>
      )}
      <IconButton label={t("Close")} onClick={onClose}>
        <X size={16} />
      </IconButton>
    </div>
  );
}
