import "../styles/search.css";
import "../styles/thread.css";
import { ArrowLeft } from "lucide-react";
import { type KeyboardEvent, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { Message } from "../contract.gen.ts";
import { n, t, tx } from "../i18n.ts";
import { hrefTo } from "../location.ts";
import { nameOf, reasonOf, summaryOf, whenOf } from "../text.ts";
import { type HeldThread, unreadIn } from "../threads.ts";
import { isIn } from "../unsent.ts";
import { Avatar } from "./Avatar.tsx";
import { Composer } from "./Composer.tsx";
import { DisplayName } from "./DisplayName.tsx";
import { MessageRow } from "./MessageRow.tsx";
import { Notice } from "./Notice.tsx";
import { Panel } from "./Panel.tsx";
import { mayWrite } from "./rights.ts";
import { type Row, rowsOf } from "./rows.ts";
import { Line } from "./TimelineParts.tsx";
import type { Target } from "./target.ts";
import type { Tools } from "./tools.ts";
import { actOn } from "./useKeyboard.ts";
import { useTools } from "./useTools.tsx";

/** Pixels from the end within which new replies keep it in view */
const AT_END = 40;
/** Characters of a message in the list of threads */
const QUOTED = 160;

/** The thread of a message: that message, the replies to it, and a box for another one. */
export function Thread({
  room_id,
  id,
  seq,
  onAll,
  onClose,
  onPerson,
}: {
  room_id: string;
  id: string;
  /** The reply in the address */
  seq: number | null;
  onAll: () => void;
  onClose: () => void;
  onPerson: Tools["person"];
}) {
  const client = useClient();
  const held = useView((view) => view.state.threads.get(id));
  const room = useView((view) => view.state.rooms.get(room_id));
  const unsent = useView((view) => view.unsent);
  const [target, setTarget] = useState<Target | null>(null);
  const [notice, setNotice] = useState<{ readonly text: string } | null>(null);
  const tell = useCallback((text: string) => setNotice({ text }), []);
  const { tools, dialog } = useTools(room_id, { onTarget: setTarget, tell, onPerson });
  const { more, failed, load } = useReplies(room_id, id);
  useRead(held);
  const replies = held?.replies ?? NONE;
  const rows = useMemo(() => {
    const began = held?.began ?? null;
    const messages = began === null ? replies : [began, ...replies];
    const waiting = unsent.filter((one) => one.room_id === room_id && isIn(one, id));
    const to = messages.at(-1)?.seq ?? 0;
    return rowsOf({ segment: { from: 2, to, messages }, me: client.me, newAfter: null, unsent: waiting });
  }, [held?.began, replies, unsent, room_id, id, client]);
  const scroller = useEnd(rows, seq);
  if (room === undefined) return null;
  const { kind, role } = room.room;
  const moderator = kind !== "direct" && (role === "owner" || role === "moderator");
  const name = nameOf(room.room, room.members, client.me);
  const pressed = (event: KeyboardEvent) => keyOn(event, rows, tools, moderator);
  return (
    <Panel title={t("Thread")} onClose={onClose}>
      <div className="thread-bar">
        <button type="button" className="button" onClick={onAll}>
          <ArrowLeft size={15} aria-hidden="true" className="points" /> {t("Threads")}
        </button>
        <a className="ellipsis grow" href={hrefTo(room_id, held?.began?.seq ?? null)}>
          {kind === "direct" ? t("with {name}", { name }) : t("in {name}", { name })}
        </a>
        <button
          type="button"
          className="button"
          aria-pressed={held?.following ?? false}
          onClick={() =>
            client
              .ask("follow_thread", { message_id: id, following: !(held?.following ?? false) })
              .catch((error) => tell(reasonOf(error)))
          }
        >
          {held?.following ? t("Following") : t("Follow")}
        </button>
      </div>
      {/* biome-ignore lint/a11y/noStaticElementInteractions: the messages in it have the focus */}
      <div className="content thread" ref={scroller} onKeyDown={pressed}>
        {rows.map((row, at) =>
          row.kind === "message" ? (
            <div key={row.key} role="presentation">
              <MessageRow
                row={row}
                tools={tools}
                moderator={moderator}
                mark={null}
                readBy=""
                replied={repliedIn(held, row.message)}
                highlighted={row.unsent === null && row.message.seq === seq}
                current={at === rows.length - 1}
              />
              {row.message.id === id && (
                <p className="replies muted small">
                  {(held?.count ?? 0) > 0 && n("{count} reply", "{count} replies", held?.count ?? 0)}
                  {more && (
                    <button type="button" className="button" onClick={load}>
                      {t("Show earlier replies")}
                    </button>
                  )}
                </p>
              )}
            </div>
          ) : (
            row.kind !== "beginning" && <Line key={row.key} row={row} />
          ),
        )}
        {failed !== null && (
          <p role="alert" className="error">
            {failed}{" "}
            <button type="button" className="button" onClick={load}>
              {t("Try again")}
            </button>
          </p>
        )}
      </div>
      {notice !== null && <Notice notice={notice} onClose={() => setNotice(null)} />}
      {mayWrite(room.room) && <Composer room_id={room_id} thread={id} target={target} onTarget={setTarget} />}
      {dialog}
    </Panel>
  );
}

const NONE: readonly Message[] = [];

/** The message that a reply quotes, if the thread has it. */
function repliedIn(held: HeldThread | undefined, { reply_to }: Message): Message | null {
  if (reply_to === null) return null;
  if (held?.began?.id === reply_to) return held.began;
  return held?.replies?.find(({ id }) => id === reply_to) ?? null;
}

/** Loads the replies: the newest ones, again after each connect, and the page before them on request. */
function useReplies(room_id: string, id: string): { more: boolean; failed: string | null; load: () => void } {
  const client = useClient();
  const online = useView((view) => view.status.is === "online");
  const [more, setMore] = useState(false);
  const [failed, setFailed] = useState<string | null>(null);
  const load = useCallback(() => {
    client.load.replies(room_id, id).then(
      (more) => {
        setMore(more);
        setFailed(null);
      },
      (error) => setFailed(reasonOf(error)),
    );
  }, [client, room_id, id]);
  useEffect(() => {
    if (online) load();
  }, [online, load]);
  return { more, failed, load };
}

/** What is on the screen is read. */
function useRead(held: HeldThread | undefined): void {
  const client = useClient();
  const unread = unreadIn(held);
  const latest = useRef(held);
  latest.current = held;
  const newest = held?.replies?.at(-1)?.seq;
  // biome-ignore lint/correctness/useExhaustiveDependencies: again for each new reply
  useEffect(() => {
    const tell = () => {
      if (!document.hidden && unread > 0 && latest.current !== undefined) client.readThread(latest.current);
    };
    tell();
    document.addEventListener("visibilitychange", tell);
    return () => document.removeEventListener("visibilitychange", tell);
  }, [client, unread, newest]);
}

/** The element that scrolls: at its end, it stays there; the reply in the address is scrolled to once. */
function useEnd(rows: readonly Row[], seq: number | null) {
  const scroller = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  const landed = useRef<number | null>(null);
  useEffect(() => {
    const element = scroller.current;
    const look = () => {
      if (element !== null) atEnd.current = element.scrollHeight - element.scrollTop - element.clientHeight < AT_END;
    };
    element?.addEventListener("scroll", look, { passive: true });
    return () => element?.removeEventListener("scroll", look);
  }, []);
  useLayoutEffect(() => {
    const element = scroller.current;
    const last = rows.at(-1);
    const sent = last?.kind === "message" && last.unsent !== null;
    const wanted = seq !== landed.current ? element?.querySelector(".highlighted") : null;
    if (wanted != null) {
      landed.current = seq;
      wanted.scrollIntoView({ block: "center" });
    } else if ((atEnd.current || sent) && element !== null) element.scrollTop = element.scrollHeight;
  }, [rows, seq]);
  return scroller;
}

/** The keys of the timeline, on the messages of a thread. */
function keyOn(event: KeyboardEvent, rows: readonly Row[], tools: Tools, moderator: boolean): void {
  const article = event.target instanceof HTMLElement && event.target.matches("article") ? event.target : null;
  const row = rows.find((row) => row.key === article?.dataset.key);
  if (article === null || row?.kind !== "message" || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  const articles = [...event.currentTarget.querySelectorAll<HTMLElement>("article")];
  const at = articles.indexOf(article);
  if (key === "arrowup") articles[at - 1]?.focus();
  else if (key === "arrowdown") articles[at + 1]?.focus();
  else if (key === "home") articles[0]?.focus();
  else if (key === "end") articles.at(-1)?.focus();
  else if (!actOn(key, row, tools, moderator, article)) return;
  event.preventDefault();
}

/** The threads that the user follows, unread ones first. */
export function Threads({ onOpen, onClose }: { onOpen: (room_id: string, id: string) => void; onClose: () => void }) {
  const client = useClient();
  const threads = useView((view) => view.state.threads);
  const online = useView((view) => view.status.is === "online");
  useEffect(() => {
    if (online) client.load.threads().catch(() => undefined); // what is held stays
  }, [client, online]);
  const followed = [...threads.values()].filter(({ following, began }) => following && began !== null);
  // Those of the server come with the newest reply first.
  followed.sort((one, other) => Number(unreadIn(other) > 0) - Number(unreadIn(one) > 0));
  return (
    <Panel title={t("Threads")} onClose={onClose}>
      <div className="content search">
        {followed.length === 0 && (
          <p className="muted">
            {tx("You follow no thread yet. Begin one with {action} on a message: the replies stay beside the room.", {
              action: <b>{t("Reply in thread")}</b>,
            })}
          </p>
        )}
        <ol>
          {followed.map((held) => (
            <ThreadItem key={held.id} held={held} onOpen={() => onOpen(held.room_id, held.id)} />
          ))}
        </ol>
      </div>
    </Panel>
  );
}

function ThreadItem({ held, onOpen }: { held: HeldThread; onOpen: () => void }) {
  const client = useClient();
  const room = useView((view) => view.state.rooms.get(held.room_id));
  const { began, count } = held;
  if (began === null || room === undefined) return null;
  const name = nameOf(room.room, room.members, client.me);
  const unread = unreadIn(held);
  return (
    <li>
      <button type="button" onClick={onOpen}>
        <Avatar name={began.sender} small />
        <span className="grow">
          <span className="who">
            <b>
              <DisplayName room_id={began.room_id} username={began.sender} />
            </b>
            <span className="muted small ellipsis">
              {room.room.kind === "direct" ? t("with {name}", { name }) : t("in {name}", { name })}
            </span>
            <time className="muted small" dateTime={began.created_at}>
              {whenOf(began.created_at)}
            </time>
          </span>
          <span className="what ellipsis" dir="auto">
            {began.deleted ? t("Message deleted") : summaryOf(began, QUOTED)}
          </span>
          <span className="muted small">{n("{count} reply", "{count} replies", count)}</span>
        </span>
        {unread > 0 && <span className="badge">{t("{count} new", { count: unread })}</span>}
      </button>
    </li>
  );
}
