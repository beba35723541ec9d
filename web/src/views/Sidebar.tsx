import "../styles/sidebar.css";
import {
  Compass,
  EllipsisVertical,
  Hash,
  Keyboard,
  Link2,
  LogOut,
  MessagesSquare,
  Search,
  Settings,
} from "lucide-react";
import { type ReactNode, useEffect, useId, useState } from "react";
import { useView } from "../context.ts";
import { open, useRoute } from "../location.ts";
import { lazyDialog } from "./lazy.tsx";
import { RoomList } from "./RoomList.tsx";
import { Avatar, Dialog, IconButton, Item, Menu } from "./ui.tsx";

const NewTopic = lazyDialog(() => import("./NewTopic.tsx").then((part) => part.NewTopic));
const NewConversation = lazyDialog(() => import("./NewConversation.tsx").then((part) => part.NewConversation));
const FindTopics = lazyDialog(() => import("./FindTopics.tsx").then((part) => part.FindTopics));
const JoinByLink = lazyDialog(() => import("./JoinByLink.tsx").then((part) => part.JoinByLink));
const SettingsDialog = lazyDialog(() => import("./Settings.tsx").then((part) => part.Settings));

type Opened = "topic" | "conversation" | "find" | "link" | "settings" | "sign out";

/** The user's rooms, the ways to begin new ones, and what belongs to the account. */
export function Sidebar({
  room_id,
  onSearch,
  onHelp,
  onSignOut,
}: {
  room_id: string | null;
  onSearch: () => void;
  onHelp: () => void;
  onSignOut: () => void;
}) {
  const { invitation } = useRoute();
  const newcomer = useView((view) => view.loaded && view.state.rooms.size === 0);
  const waiting = useView((view) => view.unsent.length);
  const [opened, setOpened] = useState<Opened | null>(null);
  const close = () => setOpened(null);
  const closeLink = () => {
    close();
    if (invitation !== null) open(null, null, { replace: true });
  };
  return (
    <nav className="sidebar" aria-label="Rooms">
      <header>
        <img src="/icon.svg" alt="" />
        <h1 className="brand grow">Tidings</h1>
        <IconButton label="Search" onClick={onSearch}>
          <Search size={19} />
        </IconButton>
        {!newcomer && (
          <IconButton label="Find topics" onClick={() => setOpened("find")}>
            <Compass size={19} />
          </IconButton>
        )}
      </header>
      {newcomer ? (
        <Welcome onOpen={setOpened} />
      ) : (
        <RoomList room_id={room_id} onNew={(section) => setOpened(section === "topics" ? "topic" : "conversation")} />
      )}
      <Account
        onSettings={() => setOpened("settings")}
        onLink={() => setOpened("link")}
        onHelp={onHelp}
        onSignOut={() => (waiting > 0 ? setOpened("sign out") : onSignOut())}
      />
      {opened === "topic" && <NewTopic onClose={close} />}
      {opened === "conversation" && <NewConversation onClose={close} />}
      {opened === "find" && <FindTopics onClose={close} onLink={() => setOpened("link")} />}
      {(opened === "link" || invitation !== null) && <JoinByLink code={invitation ?? ""} onClose={closeLink} />}
      {opened === "settings" && <SettingsDialog onClose={close} onSignOut={onSignOut} />}
      {opened === "sign out" && <SignOut waiting={waiting} onClose={close} onSignOut={onSignOut} />}
    </nav>
  );
}

/** For who has no rooms yet: the same ways to begin as over the list, by the same names, with what they are for. */
function Welcome({ onOpen }: { onOpen: (opened: Opened) => void }) {
  const me = useView((view) => view.state.me);
  return (
    <div className="welcome">
      <h2>Welcome, {me}</h2>
      <p className="muted">Here are three ways to begin.</p>
      <Way icon={<Compass size={20} />} title="Find topics" onClick={() => onOpen("find")}>
        See what is public here, and join.
      </Way>
      <Way icon={<MessagesSquare size={20} />} title="New conversation" onClick={() => onOpen("conversation")}>
        Write to one person, or to a group.
      </Way>
      <Way icon={<Hash size={20} />} title="New topic" onClick={() => onOpen("topic")}>
        Open to all, or for those whom you invite.
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

function Account({
  onSettings,
  onLink,
  onHelp,
  onSignOut,
}: {
  onSettings: () => void;
  onLink: () => void;
  onHelp: () => void;
  onSignOut: () => void;
}) {
  const me = useView((view) => view.state.me);
  const connected = useView((view) => view.status.is === "online");
  return (
    <footer className="account">
      <Avatar name={me} online={connected} />
      <span className="who grow">
        <strong className="ellipsis">{me}</strong>
        <span className="muted small">{connected ? "Online" : "Not connected"}</span>
      </span>
      <Menu label="Account" icon={<EllipsisVertical size={19} />}>
        <Item onClick={onSettings}>
          <Settings size={18} /> Settings
        </Item>
        <Item onClick={onLink}>
          <Link2 size={18} /> Join by invitation link
        </Item>
        <Item onClick={onHelp}>
          <Keyboard size={18} /> Keyboard shortcuts
        </Item>
      </Menu>
      <IconButton label="Sign out" onClick={onSignOut}>
        <LogOut size={19} />
      </IconButton>
    </footer>
  );
}

/** Asked before what waits to be sent is lost. */
function SignOut({ waiting, onClose, onSignOut }: { waiting: number; onClose: () => void; onSignOut: () => void }) {
  const sent = waiting === 0;
  // biome-ignore lint/correctness/useExhaustiveDependencies: once, when nothing is lost by it any more
  useEffect(() => {
    if (sent) onSignOut();
  }, [sent]);
  if (sent) return null;
  return (
    <Dialog title="Not everything was sent" onClose={onClose}>
      <p>
        {waiting === 1 ? "One message that you wrote is" : `${waiting} messages that you wrote are`} only on this
        device yet. If you sign out now, {waiting === 1 ? "it is" : "they are"} lost.
      </p>
      <footer>
        <button type="button" className="button" onClick={onClose}>
          Stay
        </button>
        <button type="button" className="button danger" onClick={onSignOut}>
          Sign out all the same
        </button>
      </footer>
    </Dialog>
  );
}
