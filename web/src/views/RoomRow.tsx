import { type KeyboardEvent, memo, useEffect, useId } from "react";
import { useClient, useView } from "../context.ts";
import { t } from "../i18n.ts";
import { hrefTo } from "../location.ts";
import type { RoomState } from "../store.ts";
import { nameOf, whenOf } from "../text.ts";
import { DisplayName } from "./DisplayName.tsx";
import { isMentioned, previewOf } from "./rooms.ts";
import { Sign } from "./Sign.tsx";

/**
 * A room in the sidebar: a link as large as the row. The room's name labels it, and the rest describes it.
 * `reachable`: whether the Tab key leads to it. It renders again only when its room changes.
 */
export const RoomRow = memo(function RoomRow({
  held,
  me,
  current,
  online,
  reachable,
  onKeyDown,
}: {
  held: RoomState;
  me: string;
  current: boolean;
  online: boolean;
  reachable: boolean;
  onKeyDown: (event: KeyboardEvent<HTMLAnchorElement>) => void;
}) {
  const { room } = held;
  const id = useId();
  const name = nameOf(room, held.members, me);
  const preview = previewOf(held, me);
  const last = room.last_message;
  const unread = room.unread > 0;
  const typing = held.typing.size > 0;
  const mentioned = isMentioned(held, me);
  const drafted = useView((view) => view.drafts.has(room.room_id));
  return (
    <div className={`room-row ${room.kind} ${unread ? "unread" : ""} ${current ? "current" : ""}`}>
      <Sign room={room} name={name} online={online} size={16} />
      {held.members === null && room.kind !== "topic" && <Names room_id={room.room_id} />}
      <a
        className="name ellipsis"
        dir="auto"
        href={hrefTo(room.room_id)}
        data-room-id={room.room_id}
        data-unread={unread}
        aria-current={current ? "page" : undefined}
        aria-describedby={`${id}-state ${id}-preview`}
        tabIndex={reachable ? 0 : -1}
        onKeyDown={onKeyDown}
      >
        {name}
      </a>
      {last !== null && room.kind !== "topic" && <time dateTime={last.created_at}>{whenOf(last.created_at)}</time>}
      <span
        id={`${id}-preview`}
        dir="auto"
        className={`preview ${room.kind === "topic" ? "hidden" : "small ellipsis"} ${typing ? "now" : ""}`}
      >
        {preview.sender !== null && (
          <span className="sender">
            <DisplayName room_id={room.room_id} username={preview.sender} />:{" "}
          </span>
        )}
        {preview.text}
      </span>
      <span id={`${id}-state`} className="state">
        <span className="hidden">{wordsFor(held, online)}</span>
        {drafted && !current && <span className="draft">{t("Draft")}</span>}
        {mentioned && (
          <span className="badge strong">
            @<span className="hidden"> {t("you are mentioned,")} </span>
          </span>
        )}
        {unread && (
          <span className={`badge ${mentioned || room.kind !== "topic" ? "strong" : ""}`}>
            {room.unread > 99 ? "99+" : room.unread}
            <span className="hidden"> {t("unread.")}</span>
          </span>
        )}
      </span>
    </div>
  );
});

/** Loads the members of a conversation, by whose names it is called. */
function Names({ room_id }: { room_id: string }) {
  const client = useClient();
  const connected = useView((view) => view.status.is === "online");
  useEffect(() => {
    // On failure, its name is the username, or the number of members.
    if (connected) client.load.members(room_id).catch(() => undefined);
  }, [client, connected, room_id]);
  return null;
}

function wordsFor({ room }: RoomState, online: boolean): string {
  if (room.kind === "topic") return room.is_private ? `${t("Private topic")}. ` : `${t("Topic")}. `;
  if (room.kind === "group") return `${t("Group of {members}", { members: room.members })}. `;
  return online ? `${t("Online")}. ` : "";
}
