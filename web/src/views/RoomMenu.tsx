import {
  ArrowUpToLine,
  Ban,
  Bell,
  CalendarDays,
  Copy,
  Flag,
  Folder,
  Image as ImageIcon,
  Info,
  Link,
  LogOut,
  Megaphone,
  Pencil,
  Star,
  UserPlus,
} from "lucide-react";
import { useClient } from "../context.ts";
import type { Room } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { open } from "../location.ts";
import { reasonOf } from "../text.ts";
import type { RoomTask } from "./RoomDialog.tsx";
import { mayInvite, mayMakeLinks, moderates } from "./rights.ts";
import { Item } from "./ui.tsx";

/** What one may do with a room. */
export function RoomMenu({
  room,
  reports,
  blocked,
  onTask,
  onCopyLink,
  onRefused,
}: {
  room: Room;
  /** How many messages of it are reported */
  reports: number;
  /** Whether the other of a direct conversation is blocked; null: unknown */
  blocked: boolean | null;
  onTask: (task: RoomTask) => void;
  onCopyLink: () => void;
  /** An action was refused, for this reason. */
  onRefused: (reason: string) => void;
}) {
  const client = useClient();
  const { room_id } = room;
  const favourite = room.preferences?.favourite ?? false;
  const favour = () =>
    client.ask("set_preferences", { room_id, favourite: !favourite }).catch((error) => onRefused(reasonOf(error)));
  return (
    <>
      {mayInvite(room) && (
        <Item onClick={() => onTask("invite")}>
          <UserPlus size={18} /> {t("Invite people")}
        </Item>
      )}
      {mayMakeLinks(room) && (
        <Item onClick={() => onTask("link")}>
          <Link size={18} /> {t("Invitation link")}
        </Item>
      )}
      <Item onClick={() => void favour()}>
        <Star size={18} /> {favourite ? t("Remove from favourites") : t("Add to favourites")}
      </Item>
      <Item onClick={() => onTask("section")}>
        <Folder size={18} /> {t("Move to a section")}
      </Item>
      <Item onClick={() => onTask("notify")}>
        <Bell size={18} /> {t("Notifications")}
      </Item>
      {room.kind === "group" && moderates(room.role) && (
        <Item onClick={() => onTask("rename")}>
          <Pencil size={18} /> {t("Rename")}
        </Item>
      )}
      {room.kind !== "direct" && moderates(room.role) && (
        <Item onClick={() => onTask("purpose")}>
          <Info size={18} /> {t("Set the purpose")}
        </Item>
      )}
      {room.kind !== "direct" && moderates(room.role) && (
        <Item onClick={() => onTask("picture")}>
          <ImageIcon size={18} /> {t("Choose a picture")}
        </Item>
      )}
      {room.kind !== "direct" && room.role === "owner" && (
        <Item onClick={() => onTask("posting")}>
          <Megaphone size={18} />{" "}
          {room.posting === "members" ? t("Let only moderators write") : t("Let all members write")}
        </Item>
      )}
      {reports > 0 && (
        <Item onClick={() => onTask("reports")}>
          <Flag size={18} /> {t("Reports ({count})", { count: reports })}
        </Item>
      )}
      <Item onClick={onCopyLink}>
        <Copy size={18} /> {t("Copy link to this room")}
      </Item>
      <Item onClick={() => open(room_id, 1)}>
        <ArrowUpToLine size={18} /> {t("Go to the first message")}
      </Item>
      <Item onClick={() => onTask("date")}>
        <CalendarDays size={18} /> {t("Go to a date")}
      </Item>
      <hr className="menu-separator" />
      {room.kind === "direct" ? (
        <Item danger={!blocked} disabled={blocked === null} onClick={() => onTask(blocked ? "unblock" : "block")}>
          <Ban size={18} /> {blocked ? t("Unblock") : t("Block")}
        </Item>
      ) : (
        <Item danger onClick={() => onTask("leave")}>
          <LogOut size={18} /> {t("Leave")}
        </Item>
      )}
    </>
  );
}
