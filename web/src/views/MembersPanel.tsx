import "../styles/members.css";
import { useMenuStore } from "@ariakit/react";
import { memo, useCallback, useDeferredValue, useEffect, useId, useMemo, useRef, useState } from "react";
import { Virtualizer } from "virtua";
import { useClient, useRoom, useView } from "../context.ts";
import type { Member, Room } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { open } from "../location.ts";
import { agoOf, byName, isAhead, nameOf, reasonOf, roleOf, withTimes } from "../text.ts";
import { Avatar } from "./Avatar.tsx";
import { Bans } from "./Bans.tsx";
import { writeInBox } from "./box.ts";
import { useWork } from "./form.tsx";
import { type Act, MemberMenu } from "./MemberMenu.tsx";
import { ModerationDialog } from "./ModerationDialog.tsx";
import { Panel } from "./Panel.tsx";
import { moderates } from "./rights.ts";
import { aboutOf } from "./Sign.tsx";
import type { Tools } from "./tools.ts";
import { ListRows } from "./ui.tsx";

type Row = { readonly heading: string } | Member;

/** The members of a room, those online first. */
export function MembersPanel({
  room_id,
  name,
  details = false,
  onClose,
  onMakeWay,
  onPerson,
}: {
  room_id: string;
  /** With what the room is, as it is beside every room */
  details?: boolean;
  /** The initial filter */
  name: string;
  onClose: () => void;
  /** The user jumps to a message of the room. */
  onMakeWay: () => void;
  onPerson: Tools["person"];
}) {
  const held = useRoom(room_id);
  const [showsBans, setShowsBans] = useState(false);
  const id = useId();
  const loading = useLoaded(room_id);
  if (held === undefined) return null;
  return (
    <Panel title={t("Members")} quiet={details} onClose={onClose}>
      {details && held.room.kind !== "direct" && (
        <div className="facts">
          <strong dir="auto">{nameOf(held.room, held.members)}</strong>
          {held.room.purpose !== null && <p dir="auto">{held.room.purpose}</p>}
          <p className="muted small">{aboutOf(held.room)}</p>
        </div>
      )}
      {moderates(held.room.role) && held.room.kind !== "direct" && (
        <fieldset className="segments">
          <legend className="hidden">{t("Show")}</legend>
          {[false, true].map((banned) => (
            <label key={String(banned)}>
              <input type="radio" name={id} checked={showsBans === banned} onChange={() => setShowsBans(banned)} />
              <span>{banned ? t("Banned") : t("Members")}</span>
            </label>
          ))}
        </fieldset>
      )}
      {showsBans ? (
        <Bans room_id={room_id} />
      ) : (
        <People
          room={held.room}
          members={held.members}
          name={name}
          error={loading}
          onMakeWay={onMakeWay}
          onPerson={onPerson}
        />
      )}
    </Panel>
  );
}

/** Loads the members at each connect. Returns why that failed. */
function useLoaded(room_id: string): string | null {
  const client = useClient();
  const connected = useView((view) => view.status.is === "online");
  const [error, setError] = useState<string | null>(null);
  useEffect(() => {
    if (!connected) return;
    let over = false;
    client.load.members(room_id).then(
      () => (over ? undefined : setError(null)),
      (refused) => (over ? undefined : setError(reasonOf(refused))),
    );
    return () => {
      over = true;
    };
  }, [client, connected, room_id]);
  return error;
}

function People({
  room,
  members,
  name,
  error,
  onMakeWay,
  onPerson,
}: {
  room: Room;
  members: ReadonlyMap<string, Member> | null;
  name: string;
  error: string | null;
  onMakeWay: () => void;
  onPerson: Tools["person"];
}) {
  const client = useClient();
  const connected = useView((view) => view.status.is === "online");
  const [filter, setFilter] = useState(name);
  const [act, setAct] = useState<Act | null>(null);
  const scroller = useRef<HTMLDivElement>(null);
  const wanted = useDeferredValue(filter.trim().toLocaleLowerCase());
  const rows = useMemo(() => rowsOf(members, wanted), [members, wanted]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: another filter is another list, seen from its beginning
  useEffect(() => {
    if (scroller.current !== null) scroller.current.scrollTop = 0;
  }, [wanted]);
  const work = useWork();
  const menuId = useId();
  const menu = useMenuStore({ placement: "bottom-end" });
  const opened = menu.useState("open");
  const [about, setAbout] = useState<string | null>(null);
  const chosen = about === null ? undefined : members?.get(about);
  const openMenu = useCallback(
    (username: string, button: HTMLElement) => {
      setAbout(username);
      menu.setAnchorElement(button);
      menu.setDisclosureElement(button);
      menu.setInitialFocus("first");
      menu.setAutoFocusOnShow(true);
      menu.show();
    },
    [menu],
  );
  const write = (username: string) =>
    work.run(async () => {
      const { room_id } = await client.ask("create_conversation", { usernames: [username] });
      open(room_id);
      onMakeWay();
    });
  const mention = (username: string) => {
    onMakeWay();
    // Until the next frame, the menu gives the focus back, and the room may be hidden.
    requestAnimationFrame(() => requestAnimationFrame(() => writeInBox(`@${username} `)));
  };
  /** The server sends no event about other users' mutes, nor, in large rooms, about presence. */
  const acted = () => void client.load.members(room.room_id).catch(() => undefined);
  return (
    <>
      <div className="members-filter">
        <input
          className="input"
          type="search"
          aria-label={t("Filter the members")}
          placeholder={t("Filter")}
          autoComplete="off"
          value={filter}
          onChange={(event) => setFilter(event.target.value)}
          onKeyDown={(event) => {
            if (event.key !== "Escape" || filter === "") return;
            setFilter("");
            event.preventDefault();
          }}
        />
        {(error ?? work.error) !== null && (
          <p role="alert" className="error small">
            {error ?? work.error}
          </p>
        )}
        {members === null && error === null && (
          <p className="muted" role="status">
            {connected ? t("Loading…") : t("The members will be shown when you are online.")}
          </p>
        )}
        {members !== null && rows.length === 0 && <p className="muted">{t("No member has a name like this.")}</p>}
      </div>
      <div className="content members" ref={scroller}>
        <Virtualizer as={ListRows} item="li" scrollRef={scroller} data={rows}>
          {(row) =>
            "heading" in row ? (
              <h3 key={`# ${row.heading}`}>{row.heading}</h3>
            ) : (
              <MemberRow
                key={row.username}
                member={row}
                me={row.username === client.me}
                menu={opened && row.username === about ? menuId : null}
                onOpen={openMenu}
              />
            )
          }
        </Virtualizer>
      </div>
      {chosen !== undefined && (
        <MemberMenu
          store={menu}
          id={menuId}
          member={chosen}
          room={room}
          onProfile={(username) => onPerson(username, menu.getState().disclosureElement ?? document.body)}
          onWrite={(username) => void write(username)}
          onMention={mention}
          onAct={setAct}
        />
      )}
      {act !== null && <ModerationDialog act={act} room={room} onDone={acted} onClose={() => setAct(null)} />}
    </>
  );
}

const MemberRow = memo(function MemberRow({
  member: { username, display_name, role, online, last_seen, muted_until, status, do_not_disturb_until },
  me,
  menu,
  onOpen,
}: {
  member: Member;
  me: boolean;
  /** The id of this member's menu, while it is open */
  menu: string | null;
  onOpen: (username: string, button: HTMLElement) => void;
}) {
  const about: string[] = [];
  if (display_name != null) about.push(`@${username}`);
  if (status !== null && (status.until === null || isAhead(status.until)))
    about.push(`${status.emoji ?? ""} ${status.text}`.trim());
  if (!online && last_seen !== null) about.push(t("last seen {time}", { time: agoOf(last_seen) }));
  const face = (
    <>
      <Avatar name={username} online={online} quiet={isAhead(do_not_disturb_until)} />
      <span className="grow">
        <span className="row">
          <span className="ellipsis">
            <bdi>{display_name ?? username}</bdi>
          </span>
          {me && <span className="muted small">{t("you")}</span>}
          {role !== "member" && <span className="role">{roleOf(role)}</span>}
          {isAhead(muted_until) && (
            <span className="role" data-tip={withTimes(t("Muted until {time}", { time: muted_until ?? "" }))}>
              {t("muted")}
            </span>
          )}
        </span>
        {about.length > 0 && <span className="muted small ellipsis seen">{about.join(" · ")}</span>}
      </span>
    </>
  );
  if (me) return <div className="member">{face}</div>;
  return (
    <button
      type="button"
      className="member"
      aria-haspopup="menu"
      aria-expanded={menu !== null}
      aria-controls={menu ?? undefined}
      onClick={(event) => onOpen(username, event.currentTarget)}
    >
      {face}
    </button>
  );
});

function rowsOf(members: ReadonlyMap<string, Member> | null, wanted: string): readonly Row[] {
  if (members === null) return [];
  const all = [...members.values()].filter(({ username, display_name }) =>
    `${username} ${display_name ?? ""}`.toLocaleLowerCase().includes(wanted),
  );
  all.sort((one, other) => byName.compare(one.username, other.username));
  const online = all.filter((member) => member.online);
  const offline = all.filter((member) => !member.online);
  return [
    ...group(t("Online ({count})", { count: online.length }), online),
    ...group(t("Offline ({count})", { count: offline.length }), offline),
  ];
}

function group(heading: string, members: readonly Member[]): readonly Row[] {
  return members.length === 0 ? [] : [{ heading }, ...members];
}
