import { isAhead } from "../text.ts";
import "../styles/sidebar.css";
import {
  CheckCheck,
  ChevronsUpDown,
  Compass,
  Keyboard,
  Link2,
  LogOut,
  Search,
  Settings,
  UserRound,
} from "lucide-react";
import { useEffect } from "react";
import type { View } from "../client.ts";
import { useClient, useView } from "../context.ts";
import { n, t } from "../i18n.ts";
import { open, useRoute } from "../location.ts";
import { SERVER_NAME } from "../session.ts";
import { Avatar } from "./Avatar.tsx";
import { lazyDialog } from "./lazy.tsx";
import type { Opened } from "./opened.ts";
import { RoomList } from "./RoomList.tsx";
import { Dialog, IconButton, Item, Menu } from "./ui.tsx";
import { Welcome } from "./Welcome.tsx";

const NewTopic = lazyDialog(() => import("./NewTopic.tsx").then((part) => part.NewTopic));
const NewConversation = lazyDialog(() => import("./NewConversation.tsx").then((part) => part.NewConversation));
const FindTopics = lazyDialog(() => import("./FindTopics.tsx").then((part) => part.FindTopics));
const JoinByLink = lazyDialog(() => import("./JoinByLink.tsx").then((part) => part.JoinByLink));
const MyProfile = lazyDialog(() => import("./MyProfile.tsx").then((part) => part.MyProfile));
const SettingsDialog = lazyDialog(() => import("./Settings.tsx").then((part) => part.Settings));

/** The user's rooms, the buttons for new ones, and the account menu. */
export function Sidebar({
  room_id,
  alone,
  opened,
  onOpen,
  onSearch,
  onThreads,
  onReadAll,
  onHelp,
  onSignOut,
}: {
  room_id: string | null;
  /** Whether it fills the screen */
  alone: boolean;
  opened: Opened | null;
  onOpen: (opened: Opened | null) => void;
  onSearch: () => void;
  onThreads: () => void;
  onReadAll: () => void;
  onHelp: () => void;
  onSignOut: () => void;
}) {
  const { invitation } = useRoute();
  const newcomer = useView(isNewcomer);
  const waiting = useView((view) => view.unsent.length);
  const close = () => onOpen(null);
  const closeLink = () => {
    close();
    if (invitation !== null) open(null, null, { replace: true });
  };
  return (
    <nav className="sidebar" aria-label={t("Rooms")}>
      <header>
        <img src="icon.svg" alt="" />
        <h1 className="brand grow ellipsis">{SERVER_NAME}</h1>
        <IconButton label={t("Search")} keys="Ctrl Shift F" onClick={onSearch}>
          <Search size={18} />
        </IconButton>
        {!newcomer && (
          <IconButton label={t("Find topics")} onClick={() => onOpen("find")}>
            <Compass size={18} />
          </IconButton>
        )}
      </header>
      {newcomer ? (
        alone || room_id !== null ? (
          <Welcome onOpen={onOpen} />
        ) : (
          <p className="grow none-yet muted">{t("Your topics and conversations will appear here.")}</p>
        )
      ) : (
        <RoomList
          room_id={room_id}
          onThreads={onThreads}
          onNew={(section) => onOpen(section === "topics" ? "topic" : "conversation")}
        />
      )}
      <Account
        onProfile={() => onOpen("profile")}
        onSettings={() => onOpen("settings")}
        onLink={() => onOpen("link")}
        onReadAll={onReadAll}
        onHelp={onHelp}
        onSignOut={() => (waiting > 0 ? onOpen("sign out") : onSignOut())}
      />
      {opened === "topic" && <NewTopic onClose={close} />}
      {opened === "conversation" && <NewConversation onClose={close} />}
      {opened === "find" && <FindTopics onClose={close} onLink={() => onOpen("link")} />}
      {(opened === "link" || invitation !== null) && <JoinByLink invitation={invitation} onClose={closeLink} />}
      {opened === "profile" && <MyProfile onClose={close} />}
      {opened === "settings" && <SettingsDialog onClose={close} onSignOut={onSignOut} />}
      {opened === "sign out" && <SignOut waiting={waiting} onClose={close} onSignOut={onSignOut} />}
    </nav>
  );
}

function Account({
  onProfile,
  onSettings,
  onLink,
  onReadAll,
  onHelp,
  onSignOut,
}: {
  onProfile: () => void;
  onSettings: () => void;
  onLink: () => void;
  onReadAll: () => void;
  onHelp: () => void;
  onSignOut: () => void;
}) {
  const me = useView((view) => view.state.me);
  const connected = useView((view) => view.status.is === "online");
  const profile = useView((view) => view.state.profiles.get(me));
  const status = profile?.status ?? null;
  const shown = status !== null && (status.until === null || isAhead(status.until));
  const client = useClient();
  useEffect(() => {
    // Without an answer, nothing is shown beside the name.
    if (connected) client.load.profile(me).catch(() => undefined);
  }, [client, connected, me]);
  return (
    <footer className="account">
      <Avatar name={me} online={connected} quiet={isAhead(profile?.do_not_disturb_until ?? null)} />
      <span className="who grow">
        <span className="ellipsis">
          <strong>{profile?.display_name ?? me}</strong>
          {shown && (
            <span className="muted small">
              {" "}
              {status.emoji} {status.text}
            </span>
          )}
        </span>
        <span className="muted small">{connected ? t("Online") : t("Not connected")}</span>
      </span>
      <Menu label={t("Account")} icon={<ChevronsUpDown size={16} />}>
        <Item onClick={onProfile}>
          <UserRound size={18} /> {t("Profile and status")}
        </Item>
        <Item onClick={onSettings}>
          <Settings size={18} /> {t("Settings")}
        </Item>
        <Item onClick={onLink}>
          <Link2 size={18} /> {t("Join by invitation link")}
        </Item>
        <Item onClick={onReadAll}>
          <CheckCheck size={18} /> {t("Mark all rooms as read")}
        </Item>
        <Item onClick={onHelp}>
          <Keyboard size={18} /> {t("Keyboard shortcuts")}
        </Item>
        <hr className="menu-separator" />
        <Item onClick={onSignOut}>
          <LogOut size={18} /> {t("Sign out")}
        </Item>
      </Menu>
    </footer>
  );
}

export function isNewcomer(view: View): boolean {
  return view.loaded && view.state.rooms.size === 0;
}

/** Asks before unsent messages are lost. */
function SignOut({ waiting, onClose, onSignOut }: { waiting: number; onClose: () => void; onSignOut: () => void }) {
  const sent = waiting === 0;
  // biome-ignore lint/correctness/useExhaustiveDependencies: once, when nothing is lost by it any more
  useEffect(() => {
    if (sent) onSignOut();
  }, [sent]);
  if (sent) return null;
  return (
    <Dialog title={t("Unsent messages")} onClose={onClose}>
      <p>
        {n(
          "One message has not been sent yet. If you sign out now, it will be lost.",
          "{count} messages have not been sent yet. If you sign out now, they will be lost.",
          waiting,
        )}
      </p>
      <footer>
        <button type="button" className="button" onClick={onClose}>
          {t("Stay signed in")}
        </button>
        <button type="button" className="button danger" onClick={onSignOut}>
          {t("Sign out anyway")}
        </button>
      </footer>
    </Dialog>
  );
}
