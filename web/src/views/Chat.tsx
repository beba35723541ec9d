import { useEffect, useState } from "react";
import { useClient, useView } from "../context.ts";
import { open, useRoute } from "../location.ts";
import type { Gone } from "../store.ts";
import { nameOf } from "../text.ts";
import { Banner } from "./Banner.tsx";
import { lazyPanel, loadRest } from "./lazy.tsx";
import { Notice } from "./Notice.tsx";
import { Title, useNotifications } from "./notifications.ts";
import { usePanel } from "./Panel.tsx";
import { Room } from "./Room.tsx";
import { ShortcutsDialog } from "./Shortcuts.tsx";
import { isNewcomer, type Opened, Sidebar } from "./Sidebar.tsx";
import { useWork } from "./ui.tsx";
import { useMatches } from "./useMatches.ts";
import { useNoFiles } from "./useNoFiles.ts";
import { useShortcuts } from "./useShortcuts.ts";
import { Welcome } from "./Welcome.tsx";

const MembersPanel = lazyPanel("Members", () => import("./MembersPanel.tsx").then((part) => part.MembersPanel));
const SearchPanel = lazyPanel("Search", () => import("./SearchPanel.tsx").then((part) => part.SearchPanel));

/** Narrow screens show either the list of rooms or a room, as in app.css. */
const phone = window.matchMedia("(max-width: 720px)");

/** The page of a signed-in user. */
export function Chat({ onSignOut }: { onSignOut: () => void }) {
  const route = useRoute();
  const { room_id, seq } = route;
  const loaded = useView((view) => view.loaded);
  const known = useView((view) => room_id !== null && view.state.rooms.has(room_id));
  const panel = usePanel(route);
  const shown = panel.shown?.kind === "members" && !known ? null : panel.shown;
  const inRoom = room_id !== null || shown !== null;
  // Exactly one visible part is the main landmark.
  const alone = useMatches(phone) && !inRoom;
  const [helping, setHelping] = useState(false);
  const [opened, setOpened] = useState<Opened | null>(null);
  const [notice, setNotice] = useState<{ readonly text: string } | null>(null);
  useNoFiles(() => setNotice({ text: "Files and images cannot be sent here. Send a link instead." }));
  const client = useClient();
  useNotifications();
  const search = (here: boolean) => panel.show({ kind: "search", here });
  const toggleMembers = () => (shown?.kind === "members" ? panel.close() : panel.show({ kind: "members", name: "" }));
  useShortcuts({ onHelp: () => setHelping(true), onSearch: () => search(false) });
  useEffect(() => client.watch(room_id), [client, room_id]);
  useEffect(loadRest, []);
  return (
    <div className={`chat ${inRoom ? "in-room" : ""}`}>
      <Title room_id={room_id} />
      <Banner />
      <div className="side" role={alone ? "main" : undefined}>
        <Sidebar
          room_id={room_id}
          alone={alone}
          opened={opened}
          onOpen={setOpened}
          onSearch={() => search(false)}
          onHelp={() => setHelping(true)}
          onSignOut={onSignOut}
        />
      </div>
      <main className={shown === null ? "" : "with-panel"}>
        {known && room_id !== null ? (
          <Room
            key={`room ${room_id}`}
            room_id={room_id}
            seq={seq}
            members={shown?.kind === "members"}
            onMembers={toggleMembers}
            onPerson={(name) => panel.show({ kind: "members", name })}
            onSearch={() => search(true)}
          />
        ) : (
          <Nothing waiting={!loaded} room_id={room_id} onOpen={setOpened} />
        )}
        {shown?.kind === "members" && room_id !== null && (
          <MembersPanel
            key={`members ${room_id} ${shown.name}`}
            room_id={room_id}
            name={shown.name}
            onClose={panel.close}
            onMakeWay={panel.makeWay}
          />
        )}
        {shown?.kind === "search" && (
          <SearchPanel
            room_id={known ? room_id : null}
            asked={shown}
            onClose={panel.close}
            onMakeWay={panel.makeWay}
          />
        )}
      </main>
      {notice !== null && <Notice notice={notice} onClose={() => setNotice(null)} />}
      {helping && <ShortcutsDialog onClose={() => setHelping(false)} />}
    </div>
  );
}

function Nothing({
  waiting,
  room_id,
  onOpen,
}: {
  waiting: boolean;
  room_id: string | null;
  onOpen: (opened: Opened) => void;
}) {
  const newcomer = useView(isNewcomer);
  const gone = useView((view) => (room_id === null ? undefined : view.state.gone.get(room_id)));
  const small = useMatches(phone);
  if (waiting) return <div className="nothing">Loading your rooms…</div>;
  if (gone !== undefined) return <GoneRoom gone={gone} />;
  if (room_id !== null)
    return (
      <div className="nothing">
        <p>This room does not exist, or you are not a member of it.</p>
        <Back />
      </div>
    );
  // On a phone it is in the sidebar.
  if (newcomer) return small ? null : <Welcome onOpen={onOpen} />;
  return <div className="nothing">Choose a topic or a conversation, or start a new one.</div>;
}

function Back() {
  return (
    <button type="button" className="button" onClick={() => open(null)}>
      Back
    </button>
  );
}

const REASONS: Record<string, string> = {
  left: "You left",
  kicked: "A moderator removed you from",
  banned: "A moderator banned you from",
};

/** Shown instead of a room that the user has lost. */
function GoneRoom({ gone: { room, reason } }: { gone: Gone }) {
  const client = useClient();
  const { busy, error, run } = useWork();
  const name = nameOf(room);
  const canJoin = room.topic_name !== null && !room.is_private && reason !== "banned" && reason !== "deleted";
  const join = () =>
    run(async () => {
      const joined = await client.ask("subscribe", { topic_name: room.topic_name ?? "" });
      open(joined.room_id);
    });
  return (
    <div className="nothing">
      <p role="status">
        {reason === "deleted" ? (
          <>
            <bdi>{name}</bdi> was deleted.
          </>
        ) : (
          <>
            {REASONS[reason] ?? "You are no longer a member of"} <bdi>{name}</bdi>.
          </>
        )}{" "}
        {room.is_private && reason === "kicked" && "You can come back if somebody invites you."}
      </p>
      {error !== null && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
      <div className="row">
        {canJoin && (
          <button type="button" className="button primary" disabled={busy} onClick={join}>
            Join again
          </button>
        )}
        <Back />
      </div>
    </div>
  );
}
