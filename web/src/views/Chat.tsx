import { useEffect, useState } from "react";
import { useClient, useView } from "../context.ts";
import { m, t } from "../i18n.ts";
import { keepLastRoom, lastRoom, open, openMessage, useRoute } from "../location.ts";
import { reasonOf } from "../text.ts";
import { Banner } from "./Banner.tsx";
import { lazy, lazyDialog, lazyPanel, loadRest } from "./lazy.tsx";
import { Notice, type Told } from "./Notice.tsx";
import { Title, useNotifications } from "./notifications.ts";
import type { Opened } from "./opened.ts";
import { usePanel } from "./Panel.tsx";
import { Room } from "./Room.tsx";
import { firstRoom } from "./rooms.ts";
import { isNewcomer, Sidebar } from "./Sidebar.tsx";
import { useMatches } from "./useMatches.ts";
import { useNoFiles } from "./useNoFiles.ts";
import { useShortcuts } from "./useShortcuts.ts";
import { Welcome } from "./Welcome.tsx";

const MembersPanel = lazyPanel(m("Members"), () => import("./MembersPanel.tsx").then((part) => part.MembersPanel));
const ShortcutsDialog = lazyDialog(() => import("./Shortcuts.tsx").then((part) => part.ShortcutsDialog));
const NoRoom = lazy(
  () => import("./NoRoom.tsx").then((part) => part.NoRoom),
  () => <div className="nothing">{t("This part of the page could not be loaded. Please reload it.")}</div>,
);
const ProfileCard = lazy(
  () => import("./ProfileCard.tsx").then((part) => part.ProfileCard),
  () => null,
);
const Tooltips = lazy(
  () => import("./Tooltips.tsx").then((part) => part.Tooltips),
  () => null,
);
const Thread = lazyPanel(m("Thread"), () => import("./Thread.tsx").then((part) => part.Thread));
const Threads = lazyPanel(m("Threads"), () => import("./Thread.tsx").then((part) => part.Threads));
const SearchPanel = lazyPanel(m("Search"), () => import("./SearchPanel.tsx").then((part) => part.SearchPanel));

/** Narrow screens show either the list of rooms or a room, as in app.css. */
const phone = window.matchMedia("(max-width: 45em)");

/** The page of a signed-in user. */
export function Chat({ onSignOut }: { onSignOut: () => void }) {
  const route = useRoute();
  const { room_id, seq, thread, topic, invitation } = route;
  const loaded = useView((view) => view.loaded);
  const known = useView((view) => room_id !== null && view.state.rooms.has(room_id));
  const panel = usePanel(route);
  const shown = panel.shown?.kind === "members" && !known ? null : panel.shown;
  const inRoom = room_id !== null || shown !== null;
  // Exactly one visible part is the main landmark.
  const alone = useMatches(phone) && !inRoom;
  const [helping, setHelping] = useState(false);
  const [opened, setOpened] = useState<Opened | null>(null);
  const [card, setCard] = useState<{ readonly username: string; readonly anchor: HTMLElement } | null>(null);
  const showCard = (username: string, anchor: HTMLElement) => setCard({ username, anchor });
  const [notice, setNotice] = useState<Told | null>(null);
  useNoFiles(() => setNotice({ text: t("Files cannot be sent here.") }));
  const client = useClient();
  useNotifications();
  const search = (here: boolean) => panel.show({ kind: "search", here });
  const readAll = () => {
    const undo = client.readAll();
    setNotice({
      text: t("All rooms are marked as read."),
      undo: () => void undo().catch((error: unknown) => setNotice({ text: reasonOf(error) })),
    });
  };
  const toggleMembers = () => (shown?.kind === "members" ? panel.close() : panel.show({ kind: "members", name: "" }));
  useShortcuts({ onHelp: () => setHelping(true), onSearch: () => search(false) });
  useEffect(() => client.watch(room_id), [client, room_id]);
  // A member goes on at the address that the links in the page have.
  useEffect(() => {
    if (known && topic !== null && room_id !== null) openMessage({ room_id, seq, thread }, { replace: true });
  }, [known, topic, room_id, seq, thread]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: once for each address of a reply
  useEffect(() => {
    if (known && room_id !== null && thread !== null) panel.show({ kind: "thread", room_id, id: thread });
  }, [known, room_id, seq, thread]);
  useEffect(() => {
    if (known) keepLastRoom(room_id);
  }, [known, room_id]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: once, when the page is opened
  useEffect(() => {
    if (!loaded || room_id !== null || invitation !== null || phone.matches) return;
    const first = firstRoom(client.state, lastRoom());
    if (first !== null) open(first, null, { replace: true });
  }, [loaded]);
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
          onThreads={() => panel.show({ kind: "threads" })}
          onReadAll={readAll}
          onHelp={() => setHelping(true)}
          onSignOut={onSignOut}
        />
      </div>
      <main className={shown === null ? "" : `with-panel beside-${shown.kind}`}>
        {known && room_id !== null ? (
          <Room
            key={`room ${room_id}`}
            room_id={room_id}
            seq={seq}
            members={shown?.kind === "members"}
            onMembers={toggleMembers}
            onPerson={showCard}
            onThread={(id) => panel.show({ kind: "thread", room_id, id })}
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
            details={shown.details ?? false}
            onClose={panel.close}
            onMakeWay={panel.makeWay}
            onPerson={showCard}
          />
        )}
        {shown?.kind === "thread" && (
          <Thread
            key={shown.id}
            room_id={shown.room_id}
            id={shown.id}
            seq={thread === shown.id ? seq : null}
            onAll={() => panel.show({ kind: "threads" })}
            onClose={panel.close}
            onPerson={showCard}
          />
        )}
        {shown?.kind === "threads" && (
          <Threads onOpen={(room_id, id) => panel.show({ kind: "thread", room_id, id })} onClose={panel.close} />
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
      {card !== null && <ProfileCard key={card.username} {...card} onClose={() => setCard(null)} />}
      <Tooltips />
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
  if (waiting) return <div className="nothing">{t("Loading your rooms…")}</div>;
  if (room_id !== null) return <NoRoom key={room_id} room_id={room_id} gone={gone} />;
  // On a phone it is in the sidebar.
  if (newcomer) return small ? null : <Welcome onOpen={onOpen} />;
  return <div className="nothing">{t("Choose a topic or a conversation, or start a new one.")}</div>;
}
