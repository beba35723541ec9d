import { Check, CheckCheck, CircleAlert, Clock, CornerUpRight, MessagesSquare } from "lucide-react";
import { type KeyboardEvent, type MouseEvent, memo, useState } from "react";
import { useView } from "../context.ts";
import type { Message } from "../contract.gen.ts";
import { m, n, t } from "../i18n.ts";
import { profileOf } from "../store.ts";
import { briefTimeOf, contentOf, isAhead, momentOf, summaryOf, timeOf, withTimes } from "../text.ts";
import { unreadIn } from "../threads.ts";
import { Avatar } from "./Avatar.tsx";
import { DisplayName } from "./DisplayName.tsx";
import { lazy } from "./lazy.tsx";
import { Folded } from "./Markdown.tsx";
import { Reactions } from "./Reactions.tsx";
import type { MessageRow as Row } from "./rows.ts";
import { Interrupted, Streaming } from "./Streaming.tsx";
import type { Mark, Tools } from "./tools.ts";

const Previews = lazy(
  () => import("./Previews.tsx").then((part) => part.Previews),
  () => null,
);
const MessageActions = lazy(
  () => import("./MessageActions.tsx").then((part) => part.MessageActions),
  () => null,
);
const Files = lazy(
  () => import("./Files.tsx").then((part) => part.Files),
  () => null,
);

/** Characters of the quoted message */
const QUOTED = 120;

/** One message. It renders again only when its own data changes. */
export const MessageRow = memo(function MessageRow({
  row,
  tools,
  moderator,
  mark,
  readBy,
  replied,
  highlighted,
  current,
}: {
  row: Row;
  tools: Tools;
  moderator: boolean;
  /** The delivery state; null if there is none to show. */
  mark: Mark | null;
  readBy: string;
  /** The message that it replies to, if that is held. */
  replied: Message | null;
  highlighted: boolean;
  /** Whether the Tab key leads to this message. */
  current: boolean;
}) {
  const { message, grouped, unsent } = row;
  const [near, setNear] = useState(false);
  const [menu, setMenu] = useState(false);
  const [picking, setPicking] = useState(false);
  // `Finished` announces the message; its own elements stay silent, also those of the last piece.
  const [streamed] = useState(message.state === "streaming");
  const active = (near || menu || picking) && unsent === null && !message.deleted;
  const mentioned = message.mentions.includes(tools.me) && message.sender !== tools.me;
  const openMenu = (event: MouseEvent | KeyboardEvent) => {
    if (unsent !== null || message.deleted) return;
    event.preventDefault();
    setNear(true);
    setMenu(true);
  };
  const showSender = (event: MouseEvent<HTMLElement>) => tools.person(message.sender, event.currentTarget);
  const quiet = useView(({ state }) =>
    isAhead(profileOf(state, message.room_id, message.sender)?.do_not_disturb_until ?? null),
  );
  const showMentioned = ({ target }: MouseEvent) => {
    const mention = target instanceof Element ? target.closest<HTMLElement>(".mention") : null;
    if (mention !== null) tools.person((mention.textContent ?? "").slice(1), mention);
  };
  // Only under the pointer: formatting it for every row would cost more than the rest of the row.
  const moment = near ? momentOf(message.created_at) : undefined;
  const delivery =
    unsent !== null && unsent.refused === null ? (
      <span className="mark" data-tip={t("Waiting to be sent")}>
        <Clock size={14} aria-label={t("Waiting to be sent")} />
      </span>
    ) : (
      unsent === null && mark !== null && !message.deleted && <DeliveryMark mark={mark} readBy={readBy} />
    );
  const classes = ["message"];
  if (grouped) classes.push("grouped");
  if (mentioned) classes.push("mentions-me");
  if (highlighted) classes.push("highlighted");
  if (unsent !== null) classes.push(unsent.refused === null ? "waiting" : "refused");
  return (
    <article
      className={classes.join(" ")}
      aria-live={streamed ? "off" : undefined}
      tabIndex={current ? 0 : -1}
      data-key={row.key}
      // Not `onPointerEnter`: scrolling moves all rows under a resting pointer.
      onPointerMove={(event) => event.pointerType === "mouse" && setNear(true)}
      onPointerLeave={(event) => event.pointerType === "mouse" && setNear(false)}
      onFocus={() => setNear(true)}
      onBlur={(event) => {
        if (!event.currentTarget.contains(event.relatedTarget)) setNear(false);
      }}
      // A right click opens the browser's menu, which handles links and selections.
      onContextMenu={(event) => event.button !== 2 && openMenu(event)}
      onKeyDown={(event) => event.key === "ContextMenu" && openMenu(event)}
    >
      {grouped ? (
        <time className="side" dateTime={message.created_at} data-tip={moment}>
          {briefTimeOf(message.created_at)}
        </time>
      ) : (
        // The same as the name below; keyboard users have the list of members.
        <button type="button" className="side" tabIndex={-1} aria-hidden="true" onClick={showSender}>
          <Avatar name={message.sender} quiet={quiet} />
        </button>
      )}
      <div className="body">
        {message.reply_to !== null && !message.deleted && <Quote replied={replied} jump={tools.jump} />}
        {grouped ? (
          <span className="hidden">
            <DisplayName room_id={message.room_id} username={message.sender} />:{" "}
          </span>
        ) : (
          <header>
            <button type="button" className="sender" tabIndex={-1} data-tip={message.sender} onClick={showSender}>
              <DisplayName room_id={message.room_id} username={message.sender} />
            </button>{" "}
            <time dateTime={message.created_at} data-tip={moment}>
              {timeOf(message.created_at)}
            </time>
            {delivery}
          </header>
        )}
        {message.deleted ? (
          <p className="tombstone">{t("This message was deleted.")}</p>
        ) : (
          // biome-ignore lint/a11y/noStaticElementInteractions: keyboard users have the list of members
          // biome-ignore lint/a11y/useKeyWithClickEvents: see above
          <div className="content" dir="auto" onClick={showMentioned}>
            <Folded
              id={row.key}
              opened={tools.opened}
              grows={message.state === "streaming"}
              content={contentOf(message)}
              mentions={message.mentions}
              me={tools.me}
            />
            {message.edited_at !== null && (
              <span className="edited" data-tip={momentOf(message.edited_at)}>
                {t("edited")}
              </span>
            )}
          </div>
        )}
        {(unsent ?? message).files?.length && !message.deleted ? (
          <Files message={message} unsent={unsent} tools={tools} />
        ) : null}
        {message.state === "streaming" && !message.deleted && <Streaming message={message} tools={tools} />}
        {message.state === "interrupted" && !message.deleted && <Interrupted />}
        {unsent === null && message.state === "complete" && message.content.includes("://") && (
          <Previews message={message} tools={tools} />
        )}
        {!message.deleted && <Reactions message={message} tools={tools} />}
        {tools.thread !== undefined && (message.replies ?? 0) > 0 && <ThreadLink message={message} tools={tools} />}
        {unsent !== null && unsent.refused !== null && (
          <Refusal why={unsent.refused} client_id={unsent.client_id} tools={tools} />
        )}
      </div>
      {grouped && delivery}
      {active && (
        <MessageActions
          message={message}
          moderator={moderator}
          tools={tools}
          menu={menu}
          onMenu={setMenu}
          onPicker={setPicking}
        />
      )}
    </article>
  );
});

function ThreadLink({ message, tools }: { message: Message; tools: Tools }) {
  const unread = useView(({ state }) => unreadIn(state.threads.get(message.id)));
  return (
    <button type="button" className="thread-link" onClick={() => tools.thread?.(message)}>
      <MessagesSquare size={14} aria-hidden="true" />
      {n("{count} reply", "{count} replies", message.replies ?? 0)}
      {unread > 0 && <span className="badge">{t("{count} new", { count: unread })}</span>}
    </button>
  );
}

function Quote({ replied, jump }: { replied: Message | null; jump: Tools["jump"] }) {
  if (replied === null)
    return (
      <div className="quote">
        <CornerUpRight size={14} aria-hidden="true" /> {t("In reply to an earlier message")}
      </div>
    );
  return (
    <button type="button" className="quote" onClick={() => jump(replied)}>
      <CornerUpRight size={14} aria-hidden="true" />
      <span className="hidden">{t("In reply to")} </span>
      <b className="ellipsis">
        <DisplayName room_id={replied.room_id} username={replied.sender} />
      </b>
      <span className="ellipsis" dir="auto">
        {replied.deleted ? t("Message deleted") : summaryOf(replied, QUOTED)}
      </span>
    </button>
  );
}

function Refusal({ why, client_id, tools }: { why: string; client_id: string; tools: Tools }) {
  return (
    <div className="refusal">
      <CircleAlert size={16} aria-hidden="true" />
      <span>{t("Not sent: {why}.", { why: withTimes(why) })}</span>
      <button type="button" className="button" onClick={() => tools.retry(client_id)}>
        {t("Try again")}
      </button>
      <button type="button" className="button" onClick={() => tools.discard(client_id)}>
        {t("Discard")}
      </button>
    </div>
  );
}

const LABELS: Record<Mark, string> = { sent: m("Sent"), delivered: m("Delivered"), read: m("Read") };

function DeliveryMark({ mark, readBy }: { mark: Mark; readBy: string }) {
  const label = readBy === "" ? t(LABELS[mark]) : t("Read by {readBy}", { readBy });
  return (
    <span className={`mark ${mark}`} data-tip={label}>
      {mark === "sent" ? <Check size={14} aria-label={label} /> : <CheckCheck size={14} aria-label={label} />}
    </span>
  );
}
