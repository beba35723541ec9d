import { MenuProvider, type MenuStore } from "@ariakit/react";
import {
  AtSign,
  Ban,
  Crown,
  MessageCircle,
  Shield,
  ShieldOff,
  UserMinus,
  UserRound,
  Volume2,
  VolumeX,
} from "lucide-react";
import type { Member, Room } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { isAhead } from "../text.ts";
import { mayActOn } from "./rights.ts";
import { Item, MenuContent } from "./ui.tsx";

/** A moderator's action on a member. */
export type Task = "mute" | "unmute" | "kick" | "ban" | "promote" | "demote" | "hand_over";

export interface Act {
  readonly task: Task;
  readonly username: string;
}

/** The menu about a member. One menu serves all rows, of which there may be thousands. */
export function MemberMenu({
  store,
  id,
  member: { username, role, muted_until },
  room,
  onProfile,
  onWrite,
  onMention,
  onAct,
}: {
  store: MenuStore;
  id: string;
  member: Member;
  room: Room;
  onProfile: (username: string) => void;
  onWrite: (username: string) => void;
  onMention: (username: string) => void;
  onAct: (act: Act) => void;
}) {
  const act = (task: Task) => () => onAct({ task, username });
  return (
    <MenuProvider store={store}>
      <MenuContent id={id} label={username}>
        <Item onClick={() => onProfile(username)}>
          <UserRound size={18} /> {t("Profile")}
        </Item>
        {room.kind !== "direct" && (
          <Item onClick={() => onWrite(username)}>
            <MessageCircle size={18} /> {t("Message")}
          </Item>
        )}
        <Item onClick={() => onMention(username)}>
          <AtSign size={18} /> {t("Mention")}
        </Item>
        {mayActOn(room, role) && (
          <>
            <hr className="menu-separator" />
            {role === "member" && (
              <Item onClick={act("promote")}>
                <Shield size={18} /> {t("Make moderator")}
              </Item>
            )}
            {role === "moderator" && (
              <Item onClick={act("demote")}>
                <ShieldOff size={18} /> {t("Remove as moderator")}
              </Item>
            )}
            {room.role === "owner" && (
              <Item onClick={act("hand_over")}>
                <Crown size={18} /> {t("Transfer ownership")}
              </Item>
            )}
            <hr className="menu-separator" />
            {isAhead(muted_until) ? (
              <Item onClick={act("unmute")}>
                <Volume2 size={18} /> {t("Unmute")}
              </Item>
            ) : (
              <Item onClick={act("mute")}>
                <VolumeX size={18} /> {t("Mute")}
              </Item>
            )}
            <Item danger onClick={act("kick")}>
              <UserMinus size={18} /> {t("Kick")}
            </Item>
            <Item danger onClick={act("ban")}>
              <Ban size={18} /> {t("Ban")}
            </Item>
          </>
        )}
      </MenuContent>
    </MenuProvider>
  );
}
