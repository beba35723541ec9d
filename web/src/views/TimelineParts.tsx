/** The parts of the timeline that are not messages: the room's beginning, the lines between messages, the buttons. */
import { ArrowDown, ArrowUp, Link, UserPlus } from "lucide-react";
import { m, n, t, tx } from "../i18n.ts";
import type { RoomState } from "../store.ts";
import { dayOf, nameOf } from "../text.ts";
import { writeInBox } from "./box.ts";
import { mayInvite } from "./rights.ts";
import type { Note, Row } from "./rows.ts";
import { aboutOf, Sign } from "./Sign.tsx";
import type { Direction, Paging } from "./usePaging.ts";

/** What the room is, and, for who comes first, what to do in it. */
export function Beginning({
  held: { room, members },
  me,
  onInvite,
  onCopyLink,
}: {
  held: RoomState;
  me: string;
  onInvite: () => void;
  onCopyLink: () => void;
}) {
  const name = nameOf(room, members, me);
  return (
    <div className="beginning">
      <Sign room={room} name={name} size={26} />
      <h2 dir="auto">{name}</h2>
      <p className="muted">{aboutOf(room)}</p>
      <div className="row">
        {mayInvite(room) && (
          <button type="button" className="button" onClick={onInvite}>
            <UserPlus size={17} aria-hidden="true" /> {t("Invite people")}
          </button>
        )}
        {room.kind === "topic" && !room.is_private && (
          <button type="button" className="button" onClick={onCopyLink}>
            <Link size={17} aria-hidden="true" /> {t("Copy link")}
          </button>
        )}
        {room.last_message === null && (
          <button type="button" className="button" onClick={() => writeInBox(t("Hello 👋"))}>
            {t("Say hello 👋")}
          </button>
        )}
      </div>
    </div>
  );
}

/** A row that is not a message. */
export function Line({ row }: { row: Exclude<Row, { kind: "message" | "beginning" }> }) {
  if (row.kind === "note")
    return (
      <div className="note">
        <NoteText note={row.note} />
      </div>
    );
  return (
    <div className={row.kind === "day" ? "day" : "new-line"}>
      <span>{row.kind === "day" ? dayOf(row.at) : t("New messages")}</span>
    </div>
  );
}

const CHANGES = {
  joined: m("{name} joined."),
  left: m("{name} left."),
  kicked: m("{name} was removed."),
  banned: m("{name} was banned."),
} as const;

const ROLES = {
  owner: m("{name} is now the owner."),
  moderator: m("{name} is now a moderator."),
  member: m("{name} is now a member."),
} as const;

function NoteText({ note }: { note: Note }) {
  const name = <bdi>{note.username}</bdi>;
  if (note.change === "title")
    return tx("{name} renamed the group to “{title}”.", { name, title: <bdi>{note.title}</bdi> });
  if (note.change === "purpose")
    return note.title === null
      ? tx("{name} removed what this room is for.", { name })
      : tx("{name} said what this room is for: “{purpose}”", { name, purpose: <bdi>{note.title}</bdi> });
  if (note.change === "picture")
    return note.title === null
      ? tx("{name} removed the picture of this room.", { name })
      : tx("{name} changed the picture of this room.", { name });
  if (note.change === "posting")
    return note.title === "moderators"
      ? tx("{name} chose that only moderators can write here.", { name })
      : tx("{name} chose that all members can write here.", { name });
  if (note.change === "role") return tx(ROLES[note.role ?? "member"], { name });
  return tx(CHANGES[note.change], { name });
}

export function Loading({
  direction,
  paging,
  onAgain,
}: {
  direction: Direction;
  paging: Paging;
  onAgain: () => void;
}) {
  if (paging === null) return null;
  if (paging === "loading") return <div className={`paging ${direction}`}>{t("Loading…")}</div>;
  return <Failed direction={direction} why={paging.failed} onAgain={onAgain} />;
}

export function Failed({ direction, why, onAgain }: { direction: Direction; why: string; onAgain: () => void }) {
  return (
    <div className={`paging ${direction}`} role="alert">
      {why}{" "}
      <button type="button" className="link" onClick={onAgain}>
        {t("Try again")}
      </button>
    </div>
  );
}

/** The button that jumps up to the first new message. */
export function ToNew({ count, onPress }: { count: number; onPress: () => void }) {
  return (
    <button type="button" className="button primary pill above" onClick={onPress}>
      <ArrowUp size={16} aria-hidden="true" /> {n("{count} new message", "{count} new messages", count)}
    </button>
  );
}

/** The button that jumps to the end of the room, with the number of unseen messages. */
export function ToNewest({ fresh, onPress }: { fresh: number; onPress: () => void }) {
  return (
    <button type="button" className="button to-newest" onClick={onPress}>
      <ArrowDown size={16} aria-hidden="true" /> {t("Jump to newest")}
      {fresh > 0 && (
        <span className="badge strong">
          {fresh}
          <span className="hidden"> {t("new")}</span>
        </span>
      )}
    </button>
  );
}
