import { useEffect, useState } from "react";
import { useClient, useView } from "../context.ts";
import { open, useRoute } from "../location.ts";
import { Banner } from "./Banner.tsx";
import { lazyPanel, loadRest } from "./lazy.tsx";
import { Title, useNotifications } from "./notifications.ts";
import { usePanel } from "./Panel.tsx";
import { Room } from "./Room.tsx";
import { ShortcutsDialog } from "./Shortcuts.tsx";
import { Sidebar } from "./Sidebar.tsx";
import { useMatches } from "./useMatches.ts";
import { useShortcuts } from "./useShortcuts.ts";

const MembersPanel = lazyPanel("Members", () => import("./MembersPanel.tsx").then((part) => part.MembersPanel));
const SearchPanel = lazyPanel("Search", () => import("./SearchPanel.tsx").then((part) => part.SearchPanel));

/** Where the rooms and the room are shown one at a time, as in app.css. */
const phone = window.matchMedia("(max-width: 720px)");

/** The page of somebody who is signed in. */
export function Chat({ onSignOut }: { onSignOut: () => void }) {
  const route = useRoute();
  const { room_id, seq } = route;
  const loaded = useView((view) => view.loaded);
  const known = useView((view) => room_id !== null && view.state.rooms.has(room_id));
  const panel = usePanel(route);
  const shown = panel.shown?.kind === "members" && !known ? null : panel.shown;
  const inRoom = room_id !== null || shown !== null;
  // Of what is on the screen, one is the main part.
  const alone = useMatches(phone) && !inRoom;
  const [helping, setHelping] = useState(false);
  const client = useClient();
  useNotifications();
  const search = (here: boolean) => panel.show({ kind: "search", here });
  const toggleMembers = () => (shown?.kind === "members" ? panel.close() : panel.show({ kind: "members" }));
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
            onSearch={() => search(true)}
          />
        ) : (
          <Nothing waiting={!loaded} missing={loaded && room_id !== null} />
        )}
        {shown?.kind === "members" && room_id !== null && (
          <MembersPanel
            key={`members ${room_id}`}
            room_id={room_id}
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
      {helping && <ShortcutsDialog onClose={() => setHelping(false)} />}
    </div>
  );
}

function Nothing({ waiting, missing }: { waiting: boolean; missing: boolean }) {
  if (waiting) return <div className="nothing">Loading your rooms…</div>;
  if (!missing) return <div className="nothing">Choose a topic or a conversation, or begin one.</div>;
  return (
    <div className="nothing">
      <p>There is no such room, or you are not in it.</p>
      <button type="button" className="button" onClick={() => open(null)}>
        Back
      </button>
    </div>
  );
}
