import { Check, CheckCheck, CircleAlert, Clock, CornerUpRight } from "lucide-react";
import { type KeyboardEvent, type MouseEvent, memo, useState } from "react";
import type { Message } from "../contract.gen.ts";
import { briefTimeOf, momentOf, timeOf, withTimes } from "../text.ts";
import { Folded } from "./Markdown.tsx";
import { MessageActions } from "./MessageActions.tsx";
import { Reactions } from "./Reactions.tsx";
import type { MessageRow as Row } from "./rows.ts";
import type { Mark, Tools } from "./tools.ts";
import { Avatar } from "./ui.tsx";

/** One message. It is rendered again only when something of its own changes. */
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
  /** How far it has got; null where that is not told. */
  mark: Mark | null;
  readBy: string;
  /** The message it answers; null if that is not held. */
  replied: Message | null;
  highlighted: boolean;
  /** The one of all messages that Tab leads to. */
  current: boolean;
}) {
  const { message, grouped, unsent } = row;
  const [near, setNear] = useState(false);
  const [menu, setMenu] = useState(false);
  const [picking, setPicking] = useState(false);
  const active = (near || menu || picking) && unsent === null && !message.deleted;
  const mentioned = message.mentions.includes(tools.me) && message.sender !== tools.me;
  const openMenu = (event: MouseEvent | KeyboardEvent) => {
    if (unsent !== null || message.deleted) return;
    event.preventDefault();
    setNear(true);
    setMenu(true);
  };
  // Only for the pointer: to make it for each row that comes by would cost more than the rest of the row.
  const moment = near ? momentOf(message.created_at) : undefined;
  const classes = ["message"];
  if (grouped) classes.push("grouped");
  if (mentioned) classes.push("mentions-me");
  if (highlighted) classes.push("highlighted");
  if (unsent !== null) classes.push(unsent.refused === null ? "waiting" : "refused");
  return (
    <article
      className={classes.join(" ")}
      tabIndex={current ? 0 : -1}
      data-key={row.key}
      // Not where it enters: who scrolls has all the rows come by under the pointer.
      onPointerMove={(event) => event.pointerType === "mouse" && setNear(true)}
      onPointerLeave={(event) => event.pointerType === "mouse" && setNear(false)}
      onFocus={() => setNear(true)}
      onBlur={(event) => {
        if (!event.currentTarget.contains(event.relatedTarget)) setNear(false);
      }}
      // A right click is the browser's: it knows about links and selections.
      onContextMenu={(event) => event.button !== 2 && openMenu(event)}
      onKeyDown={(event) => event.key === "ContextMenu" && openMenu(event)}
    >
      {grouped ? (
        <time className="side" dateTime={message.created_at} title={moment}>
          {briefTimeOf(message.created_at)}
        </time>
      ) : (
        <span className="side">
          <Avatar name={message.sender} />
        </span>
      )}
      <div className="body">
        {message.reply_to !== null && !message.deleted && <Quote replied={replied} jump={tools.jump} />}
        {grouped ? (
          <span className="hidden">{message.sender}: </span>
        ) : (
          <header>
            <span className="sender">{message.sender}</span>{" "}
            <time dateTime={message.created_at} title={moment}>
              {timeOf(message.created_at)}
            </time>
          </header>
        )}
        {message.deleted ? (
          <p className="tombstone">This message was deleted.</p>
        ) : (
          <div className="content">
            <Folded
              id={row.key}
              opened={tools.opened}
              content={message.content}
              mentions={message.mentions}
              me={tools.me}
            />
            {message.edited_at !== null && (
              <span className="edited" title={momentOf(message.edited_at)}>
                edited
              </span>
            )}
          </div>
        )}
        {!message.deleted && <Reactions message={message} tools={tools} />}
        {unsent !== null && unsent.refused !== null && (
          <Refusal why={unsent.refused} client_id={unsent.client_id} tools={tools} />
        )}
      </div>
      {unsent !== null && unsent.refused === null && (
        <span className="mark" title="Waits to be sent">
          <Clock size={14} aria-label="Waits to be sent" />
        </span>
      )}
      {unsent === null && mark !== null && !message.deleted && <Told mark={mark} readBy={readBy} />}
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

function Quote({ replied, jump }: { replied: Message | null; jump: (seq: number) => void }) {
  if (replied === null)
    return (
      <div className="quote">
        <CornerUpRight size={14} aria-hidden="true" /> In reply to an earlier one
      </div>
    );
  return (
    <button type="button" className="quote" onClick={() => jump(replied.seq)}>
      <CornerUpRight size={14} aria-hidden="true" />
      <span className="hidden">In reply to </span>
      <b>{replied.sender}</b>
      <span className="ellipsis">{replied.deleted ? "deleted" : beginOf(replied.content)}</span>
    </button>
  );
}

function beginOf(content: string): string {
  return content.slice(0, 200).replace(/\*\*|~~|`+|\s+/g, (sign) => (sign.trim() === "" ? " " : ""));
}

function Refusal({ why, client_id, tools }: { why: string; client_id: string; tools: Tools }) {
  return (
    <div className="refusal">
      <CircleAlert size={16} aria-hidden="true" />
      <span>Not sent: {withTimes(why)}.</span>
      <button type="button" className="button" onClick={() => tools.retry(client_id)}>
        Try again
      </button>
      <button type="button" className="button" onClick={() => tools.discard(client_id)}>
        Discard
      </button>
    </div>
  );
}

const TOLD: Record<Mark, string> = { sent: "Sent", delivered: "Delivered", read: "Read" };

function Told({ mark, readBy }: { mark: Mark; readBy: string }) {
  const said = readBy === "" ? TOLD[mark] : `Read by ${readBy}`;
  return (
    <span className={`mark ${mark}`} title={said}>
      {mark === "sent" ? <Check size={14} aria-label={said} /> : <CheckCheck size={14} aria-label={said} />}
    </span>
  );
}
