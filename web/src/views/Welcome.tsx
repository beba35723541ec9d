import { Compass, Hash, MessagesSquare } from "lucide-react";
import { type ReactNode, useId } from "react";
import { useView } from "../context.ts";
import { t, tx } from "../i18n.ts";
import type { Opened } from "./opened.ts";

/** For a user without rooms: the ways to start, named as in the sidebar. */
export function Welcome({ onOpen }: { onOpen: (opened: Opened) => void }) {
  const me = useView((view) => view.state.me);
  return (
    <div className="welcome">
      <h2>{tx("Welcome, {name}", { name: <bdi>{me}</bdi> })}</h2>
      <p className="muted">{t("Three ways to start:")}</p>
      <Way icon={<Compass size={20} />} title={t("Find topics")} onClick={() => onOpen("find")}>
        {t("Browse the public topics, and join.")}
      </Way>
      <Way icon={<MessagesSquare size={20} />} title={t("New conversation")} onClick={() => onOpen("conversation")}>
        {t("Write to one person or a group.")}
      </Way>
      <Way icon={<Hash size={20} />} title={t("New topic")} onClick={() => onOpen("topic")}>
        {t("Open to everyone, or only to people you invite.")}
      </Way>
      <button type="button" className="text-button" onClick={() => onOpen("link")}>
        {t("I have an invitation link")}
      </button>
    </div>
  );
}

function Way({
  icon,
  title,
  children,
  onClick,
}: {
  icon: ReactNode;
  title: string;
  children: ReactNode;
  onClick: () => void;
}) {
  const id = useId();
  return (
    <div className="way">
      {icon}
      <span className="stack">
        <button type="button" aria-describedby={id} onClick={onClick}>
          {title}
        </button>
        <span id={id} className="muted small">
          {children}
        </span>
      </span>
    </div>
  );
}
