import { Hash, Lock, Users } from "lucide-react";
import { useView } from "../context.ts";
import type { Room } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { profileOf } from "../store.ts";
import { hueOf, isAhead } from "../text.ts";
import { Avatar, Picture } from "./Avatar.tsx";

/** The kind of a room: `#`, a lock, several people, or the other user's avatar. */
export function Sign({
  room,
  name,
  online = false,
  size,
}: {
  room: Room;
  name: string;
  online?: boolean;
  size: number;
}) {
  if (room.kind === "direct") return <Other room={room} online={online} />;
  const Icon = room.kind === "group" ? Users : room.is_private ? Lock : Hash;
  const hue = room.kind === "group" ? { style: { "--hue": hueOf(name) } as object } : {};
  return (
    <span className={`avatar sign ${room.kind}`} aria-hidden="true" {...hue}>
      <Icon size={size} />
      {room.picture != null && <Picture id={room.picture} />}
    </span>
  );
}

function Other({ room: { room_id, title }, online }: { room: Room; online: boolean }) {
  const name = title ?? "";
  const quiet = useView(({ state }) => isAhead(profileOf(state, room_id, name)?.do_not_disturb_until ?? null));
  return <Avatar name={name} online={online} quiet={quiet} />;
}

export function kindOf({ kind, is_private }: Room): string {
  return { direct: t("Conversation"), group: t("Group"), topic: is_private ? t("Private topic") : t("Topic") }[kind];
}

/** Who sees a room. */
export function aboutOf({ kind, is_private }: Room): string {
  if (kind === "direct") return t("This is the start of your conversation.");
  if (kind === "group") return t("Only the members of this group see it.");
  return is_private
    ? t("A private topic: only who is invited can join.")
    : t("A public topic: everyone on this server can find it and join.");
}
