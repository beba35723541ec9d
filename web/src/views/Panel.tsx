import { X } from "lucide-react";
import { type ReactNode, useEffect, useRef, useState } from "react";
import { t } from "../i18n.ts";
import type { Route } from "../location.ts";
import { SERVER_NAME } from "../session.ts";
import { IconButton } from "./ui.tsx";
import { useMatches } from "./useMatches.ts";

/** The panel beside the room; on a narrow screen, instead of it. */
export type Shown =
  | {
      readonly kind: "members";
      /** The filter; "": all */
      readonly name: string;
      /** It is open by itself, beside every room. */
      readonly details?: boolean;
    }
  | { readonly kind: "search"; readonly here: boolean }
  | { readonly kind: "threads" }
  | { readonly kind: "thread"; readonly room_id: string; readonly id: string };

/** Narrow screens show a panel instead of the room, as in app.css. */
const narrow = window.matchMedia("(max-width: 68.75em)");

/** Wide screens have room for the details of every room, unless they were closed. */
const wide = window.matchMedia("(width >= 100em)");
const CLOSED = "tidings.details_closed";
const DETAILS: Shown = { kind: "members", name: "", details: true };

/** Which panel is open. Closing it returns the focus to the element that opened it. */
export function usePanel(route: Route): {
  shown: Shown | null;
  show: (panel: Shown) => void;
  close: () => void;
  /** The user jumps to a message: close the panel if it hides the room. */
  makeWay: () => void;
} {
  const [shown, setShown] = useState<Shown | null>(null);
  const [at, setAt] = useState(route);
  const [closed, setClosed] = useState(() => localStorage.getItem(CLOSED) !== null);
  const details = useMatches(wide) && !closed ? DETAILS : null;
  const choose = (closed: boolean) => {
    if (closed) localStorage.setItem(CLOSED, "");
    else localStorage.removeItem(CLOSED);
    setClosed(closed);
  };
  const opener = useRef<Element | null>(null);
  if (at !== route) {
    setAt(route);
    if (narrow.matches) setShown(null);
  }
  const makeWay = () => {
    if (!narrow.matches) return;
    setShown(null);
    requestAnimationFrame(() => {
      if (document.activeElement === document.body) document.querySelector<HTMLElement>(".room-header h1")?.focus();
    });
  };
  const show = (panel: Shown) => {
    if (shown === null) opener.current = document.activeElement;
    if (panel.kind === "members" && wide.matches) choose(false);
    setShown(panel);
  };
  const close = () => {
    if ((shown ?? details)?.kind === "members" && wide.matches) choose(true);
    setShown(null);
    // The element that opened it may be hidden until the next frame.
    requestAnimationFrame(() => {
      if (opener.current instanceof HTMLElement) opener.current.focus();
    });
  };
  return { shown: shown ?? details, show, close, makeWay };
}

/** A panel with its heading. Escape closes it, unless a menu is open or a text is being written. */
export function Panel({
  title,
  quiet = false,
  onClose,
  children,
}: {
  title: string;
  /** It opened by itself: the focus stays where it is. */
  quiet?: boolean;
  onClose: () => void;
  children: ReactNode;
}) {
  const aside = useRef<HTMLElement>(null);
  const heading = useRef<HTMLHeadingElement>(null);
  const alone = useMatches(narrow);
  const latest = useRef(onClose);
  latest.current = onClose;
  useEffect(() => {
    if (!quiet && aside.current?.contains(document.activeElement) !== true) heading.current?.focus();
    let covered = false;
    // In the capture phase, before an open menu or dialog closes at the same key.
    const before = () => {
      covered = document.querySelector("[role=dialog], [role=menu]") !== null;
    };
    const pressed = (event: KeyboardEvent) => {
      if (event.key !== "Escape" || event.defaultPrevented || covered) return;
      const inside =
        (event.target === document.body && !quiet) || aside.current?.contains(event.target as Node) === true;
      if (inside) latest.current();
    };
    window.addEventListener("keydown", before, { capture: true });
    window.addEventListener("keydown", pressed);
    return () => {
      window.removeEventListener("keydown", before, { capture: true });
      window.removeEventListener("keydown", pressed);
    };
  }, [quiet]);
  return (
    <aside className="panel" aria-label={title} ref={aside}>
      {alone && <h1 className="hidden">{SERVER_NAME}</h1>}
      <header>
        <h2 ref={heading} tabIndex={-1}>
          {title}
        </h2>
        <IconButton label={t("Close")} onClick={onClose}>
          <X size={20} />
        </IconButton>
      </header>
      {children}
    </aside>
  );
}
