import "../styles/header.css";
import { ArrowLeft, MoreVertical, Search, Users } from "lucide-react";
import { useEffect, useRef } from "react";
import { useClient, useView } from "../context.ts";
import type { Room } from "../contract.gen.ts";
import { n, t } from "../i18n.ts";
import { open } from "../location.ts";
import type { RoomState } from "../store.ts";
import { agoOf, nameOf } from "../text.ts";
import { lazyDialog, lazyMenu } from "./lazy.tsx";
import type { RoomTask } from "./RoomDialog.tsx";
import { moderates } from "./rights.ts";
import { kindOf, Sign } from "./Sign.tsx";
import { IconButton, Menu } from "./ui.tsx";

const RoomDialog = lazyDialog(() => import("./RoomDialog.tsx").then((part) => part.RoomDialog));
const RoomMenu = lazyMenu(() => import("./RoomMenu.tsx").then((part) => part.RoomMenu));

/** Up to this many members, the server sends presence, so they are loaded when the room opens. */
const FOLLOWED = 200;

/** The room's name, presence and menu. */
export function RoomHeader({
  room_id,
  members,
  task,
  onTask: setTask,
  onCopyLink,
  onMembers,
  onSearch,
  onRefused,
}: {
  room_id: string;
  /** Whether the members are shown */
  members: boolean;
  /** The dialog that is open */
  task: RoomTask | null;
  onTask: (task: RoomTask | null) => void;
  onCopyLink: () => void;
  onMembers: () => void;
  onSearch: () => void;
  /** An action of the menu was refused, for this reason. */
  onRefused: (reason: string) => void;
}) {
  const client = useClient();
  const held = useHead(room_id);
  const blocked = useBlocked(held?.room);
  const presence = usePresence(held);
  const reports = useReports(held?.room);
  if (held === undefined) return null;
  const { room } = held;
  const name = nameOf(room, held.members, client.me);
  const about = blocked ? t("You have blocked this person.") : presence.text;
  return (
    <header className="room-header">
      <IconButton label={t("Back")} className="only-phone" onClick={() => open(null)}>
        <ArrowLeft size={20} />
      </IconButton>
      <Sign room={room} name={name} online={presence.online} size={18} />
      {room.kind !== "direct" && <span className="hidden">{kindOf(room)}</span>}
      <div className="grow">
        <h1 className="ellipsis" dir="auto" tabIndex={-1}>
          {name}
        </h1>
        <p className="muted small ellipsis">
          {about}
          {room.purpose != null && (
            <>
              {about !== "" && " · "}
              <bdi>{room.purpose}</bdi>
            </>
          )}
        </p>
      </div>
      <IconButton label={t("Search in this room")} onClick={onSearch}>
        <Search size={20} />
      </IconButton>
      <IconButton label={t("Members")} aria-expanded={members} onClick={onMembers}>
        <Users size={20} />
      </IconButton>
      <Menu
        label={t("More about this room")}
        icon={
          <>
            <MoreVertical size={20} />
            {reports > 0 && (
              <span aria-hidden="true" className="badge strong">
                {reports}
              </span>
            )}
          </>
        }
      >
        <RoomMenu
          room={room}
          reports={reports}
          blocked={blocked}
          onTask={setTask}
          onCopyLink={onCopyLink}
          onRefused={onRefused}
        />
      </Menu>
      {task !== null && <RoomDialog task={task} room={room} name={name} onClose={() => setTask(null)} />}
    </header>
  );
}

/** The fields of a room that every message changes; the header does not show them. */
const OF_MESSAGES: readonly string[] = ["last_seq", "last_message", "unread", "read_seq"] satisfies (keyof Room)[];

type Head = Pick<RoomState, "room" | "members">;

/** The same object while the fields in the header are the same. */
function useHead(room_id: string): Head | undefined {
  const last = useRef<Head>(undefined);
  return useView((view) => {
    const held = view.state.rooms.get(room_id);
    if (held === undefined || last.current === undefined || !isSame(last.current, held)) last.current = held;
    return last.current;
  });
}

function isSame(one: Head, other: Head): boolean {
  const shown = (Object.keys(one.room) as (keyof Room)[]).filter((key) => !OF_MESSAGES.includes(key));
  return one.members === other.members && shown.every((key) => one.room[key] === other.room[key]);
}

/** Who is online. Loads the members at each connect, because earlier presence is outdated. */
function usePresence(held: Head | undefined): { online: boolean; text: string } {
  const client = useClient();
  const connected = useView((view) => view.status.is === "online");
  const other = held?.room.kind === "direct" ? held.room.title : null;
  const told = useView((view) => (other === null ? undefined : view.state.presence.get(other)));
  const room_id = held !== undefined && held.room.members <= FOLLOWED ? held.room.room_id : null;
  useEffect(() => {
    // On failure, the count of the snapshot is shown.
    if (connected && room_id !== null) client.load.members(room_id).catch(() => undefined);
  }, [client, connected, room_id]);
  if (held === undefined) return { online: false, text: "" };
  const { room, members } = held;
  if (other !== null) {
    const known = told ?? members?.get(other) ?? { online: room.online >= 2, last_seen: null };
    const online = connected && known.online;
    if (online) return { online, text: t("online") };
    return { online, text: known.last_seen === null ? "" : t("last seen {time}", { time: agoOf(known.last_seen) }) };
  }
  const count = n("{count} member", "{count} members", room.members);
  if (!connected) return { online: false, text: count };
  const online = members === null ? room.online : [...members.values()].filter((member) => member.online).length;
  return { online: false, text: `${count}, ${t("{online} online", { online })}` };
}

/** How many messages of a room are reported, for its moderators. */
function useReports(room: Room | undefined): number {
  const client = useClient();
  const connected = useView((view) => view.status.is === "online");
  const room_id = room !== undefined && room.kind !== "direct" && moderates(room.role) ? room.room_id : null;
  useEffect(() => {
    // On failure, only those are counted that come later.
    if (connected && room_id !== null) client.load.reports(room_id).catch(() => undefined);
  }, [client, connected, room_id]);
  return useView(({ state }) => (room_id === null ? 0 : (state.reports.get(room_id)?.length ?? 0)));
}

/** Whether the user has blocked the other user of a direct conversation; null until it is known. */
function useBlocked(room: Room | undefined): boolean | null {
  const client = useClient();
  const connected = useView((view) => view.status.is === "online");
  const other = room?.kind === "direct" ? room.title : null;
  useEffect(() => {
    // On failure it stays unknown, and the menu does not offer it.
    if (other !== null && connected) client.blocks.load().catch(() => undefined);
  }, [client, connected, other]);
  return useView(({ blocked }) => (other === null ? null : (blocked?.has(other) ?? null)));
}
