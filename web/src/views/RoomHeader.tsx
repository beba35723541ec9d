import "../styles/header.css";
import {
  ArrowLeft,
  Ban,
  Copy,
  Hash,
  Link,
  Lock,
  LogOut,
  MoreVertical,
  Pencil,
  Search,
  UserPlus,
  Users,
} from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { Room } from "../contract.gen.ts";
import { hrefTo, open } from "../location.ts";
import type { RoomState } from "../store.ts";
import { agoOf, nameOf } from "../text.ts";
import { copied } from "./copied.ts";
import { lazyDialog } from "./lazy.tsx";
import type { RoomTask } from "./RoomDialog.tsx";
import { mayInvite, moderates } from "./rights.ts";
import { Avatar, IconButton, Item, Menu } from "./ui.tsx";

const RoomDialog = lazyDialog(() => import("./RoomDialog.tsx").then((part) => part.RoomDialog));

/** Up to so many, the server tells who of the members is online: they are asked for when the room is opened. */
const FOLLOWED = 200;
const SAID_FOR = 3000;

/** What the room is, who is there, and what one can do with it. */
export function RoomHeader({
  room_id,
  members,
  onMembers,
  onSearch,
}: {
  room_id: string;
  /** Whether the members are shown */
  members: boolean;
  onMembers: () => void;
  onSearch: () => void;
}) {
  const held = useHead(room_id);
  const [task, setTask] = useState<RoomTask | null>(null);
  const [said, say] = useSaid();
  const blocked = useBlocked(held?.room);
  const presence = usePresence(held);
  if (held === undefined) return null;
  const { room } = held;
  const address = new URL(hrefTo(room_id), window.location.href).href;
  const copyAddress = async () => {
    if (await copied(address)) say("The link was copied.");
    else setTask("address");
  };
  return (
    <header className="room-header">
      <IconButton label="Back" className="only-phone" onClick={() => open(null)}>
        <ArrowLeft size={20} />
      </IconButton>
      <Sign room={room} online={presence.online} />
      <div className="grow">
        <h1 className="ellipsis" tabIndex={-1}>
          {nameOf(room)}
        </h1>
        <p className="muted small ellipsis">
          <span role="status">{said}</span>
          {said === null && (blocked ? "You have blocked this person." : presence.text)}
        </p>
      </div>
      <IconButton label="Search in this room" onClick={onSearch}>
        <Search size={20} />
      </IconButton>
      <IconButton label="Members" aria-expanded={members} onClick={onMembers}>
        <Users size={20} />
      </IconButton>
      <Menu label="More about this room" icon={<MoreVertical size={20} />}>
        {mayInvite(room) && (
          <>
            <Item onClick={() => setTask("invite")}>
              <UserPlus size={18} /> Invite somebody
            </Item>
            <Item onClick={() => setTask("link")}>
              <Link size={18} /> Invitation link
            </Item>
          </>
        )}
        {room.kind === "group" && moderates(room.role) && (
          <Item onClick={() => setTask("rename")}>
            <Pencil size={18} /> Rename
          </Item>
        )}
        <Item onClick={() => void copyAddress()}>
          <Copy size={18} /> Copy link to this room
        </Item>
        <hr className="menu-separator" />
        {room.kind === "direct" ? (
          <Item danger={!blocked} disabled={blocked === null} onClick={() => setTask(blocked ? "unblock" : "block")}>
            <Ban size={18} /> {blocked ? "Unblock" : "Block"}
          </Item>
        ) : (
          <Item danger onClick={() => setTask("leave")}>
            <LogOut size={18} /> Leave
          </Item>
        )}
      </Menu>
      {task !== null && <RoomDialog task={task} room={room} address={address} onClose={() => setTask(null)} />}
    </header>
  );
}

function Sign({ room, online }: { room: Room; online: boolean }) {
  if (room.kind === "direct") return <Avatar name={nameOf(room)} online={online} />;
  const Icon = room.kind === "group" ? Users : room.is_private ? Lock : Hash;
  const what = room.kind === "group" ? "Group" : room.is_private ? "Private topic" : "Topic";
  return (
    <span className="sign" role="img" aria-label={what} title={what}>
      <Icon size={20} />
    </span>
  );
}

/** What every message changes of a room; the header shows none of it. */
const OF_MESSAGES: readonly string[] = ["last_seq", "last_message", "unread", "read_seq"] satisfies (keyof Room)[];

type Head = Pick<RoomState, "room" | "members">;

/** The same object as long as what the header shows is the same. */
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

/** Who is there. Asks for the members whenever there is a new connection: what was told before it may be over. */
function usePresence(held: Head | undefined): { online: boolean; text: string } {
  const client = useClient();
  const connected = useView((view) => view.status.is === "online");
  const other = held?.room.kind === "direct" ? held.room.title : null;
  const told = useView((view) => (other === null ? undefined : view.state.presence.get(other)));
  const room_id = held !== undefined && held.room.members <= FOLLOWED ? held.room.room_id : null;
  useEffect(() => {
    // Without an answer the count of the snapshot is shown.
    if (connected && room_id !== null) client.load.members(room_id).catch(() => undefined);
  }, [client, connected, room_id]);
  if (held === undefined) return { online: false, text: "" };
  const { room, members } = held;
  if (other !== null) {
    const known = told ?? members?.get(other) ?? { online: room.online >= 2, last_seen: null };
    const online = connected && known.online;
    if (online) return { online, text: "online" };
    return { online, text: known.last_seen === null ? "" : `last seen ${agoOf(known.last_seen)}` };
  }
  const count = room.members === 1 ? "1 member" : `${room.members.toLocaleString()} members`;
  if (!connected) return { online: false, text: count };
  const online = members === null ? room.online : [...members.values()].filter((member) => member.online).length;
  return { online: false, text: `${count}, ${online.toLocaleString()} online` };
}

/** Whether one has blocked the other of a direct conversation; null until it is known. */
function useBlocked(room: Room | undefined): boolean | null {
  const client = useClient();
  const connected = useView((view) => view.status.is === "online");
  const other = room?.kind === "direct" ? room.title : null;
  useEffect(() => {
    // Without an answer it stays unknown, and the menu does not offer it.
    if (other !== null && connected) client.blocks.load().catch(() => undefined);
  }, [client, connected, other]);
  return useView(({ blocked }) => (other === null ? null : (blocked?.has(other) ?? null)));
}

/** A word on what was just done, for a moment. */
function useSaid(): [string | null, (text: string) => void] {
  const [said, setSaid] = useState<string | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  const say = (text: string) => {
    setSaid(text);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setSaid(null), SAID_FOR);
  };
  return [said, say];
}
