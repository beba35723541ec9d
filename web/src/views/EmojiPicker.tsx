import { Popover, PopoverDisclosure, PopoverProvider } from "@ariakit/react";
import { type ReactNode, useState } from "react";
import { t } from "../i18n.ts";
import { lazy } from "./lazy.tsx";

const EmojiGrid = lazy(
  () => import("./EmojiGrid.tsx").then((part) => part.EmojiGrid),
  () => <p className="muted emoji-grid">{t("The emoji could not be loaded.")}</p>,
  () => <p className="muted emoji-grid">{t("Loading…")}</p>,
);

/** A button that opens the emoji grid. `onOpen` is called when it opens and closes. */
export function EmojiButton({
  label,
  icon,
  onChoose,
  onOpen,
  className = "icon-button",
  placement = "top-end",
}: {
  label: string;
  icon: ReactNode;
  onChoose: (emoji: string) => void;
  onOpen?: (open: boolean) => void;
  className?: string;
  placement?: "top-start" | "top-end";
}) {
  const [open, setOpen] = useState(false);
  const show = (shown: boolean) => {
    setOpen(shown);
    onOpen?.(shown);
  };
  return (
    <PopoverProvider open={open} setOpen={show} placement={placement}>
      <PopoverDisclosure className={className} aria-label={label} data-tip={label}>
        {icon}
      </PopoverDisclosure>
      <Popover className="emoji-popover" aria-label={t("Emoji")} portal modal gutter={6} unmountOnHide>
        <EmojiGrid
          onChoose={(emoji) => {
            show(false);
            onChoose(emoji);
          }}
        />
      </Popover>
    </PopoverProvider>
  );
}
