import { Compass, Hash, MessagesSquare } from "lucide-react";
import { type ReactNode, useId } from "react";
import { useView } from "../context.ts";
import type { Opened } from "./opened.ts";

/** For a user without rooms: the ways to start, named as in the sidebar. */
export function Welcome({ onOpen }: { onOpen: (opened: Opened) => void }) {
  const me = useView((view) => view.state.me);
  return (
    <div className="welcome">
      <h2>
        Welcome, <bdi>{me}</bdi>
      </h2>
      <p className="muted">Three ways to start:</p>
      <Way icon={<Compass size={20} />} title="Find topics" onClick={() => onOpen("find")}>
        Browse the public topics, and join.
      </Way>
      <Way icon={<MessagesSquare size={20} />} title="New conversation" onClick={() => onOpen("conversation")}>
        Write to one person or a group.
      </Way>
      <Way icon={<Hash size={20} />} title="New topic" onClick={() => onOpen("topic")}>
        Open to everyone, or only to people you invite.
      </Way>
      <button type="button" className="text-button" onClick={() => onOpen("link")}>
        I have an invitation link
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
