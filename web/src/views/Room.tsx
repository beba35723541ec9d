import { useCallback, useMemo, useRef, useState } from "react";
import { useClient, useView } from "../context.ts";
import { linkTo, open } from "../location.ts";
import { reasonOf } from "../text.ts";
import { Composer } from "./Composer.tsx";
import { copyToClipboard } from "./clipboard.ts";
import { lazyDialog } from "./lazy.tsx";
import type { Asked } from "./MessageDialog.tsx";
import { Notice } from "./Notice.tsx";
import type { RoomTask } from "./RoomDialog.tsx";
import { RoomHeader } from "./RoomHeader.tsx";
import { mayWrite } from "./rights.ts";
import { Timeline } from "./Timeline.tsx";
import { Typing } from "./Typing.tsx";
import type { Target } from "./target.ts";
import type { Tools } from "./tools.ts";
import { useReceipts } from "./useReceipts.ts";
import "../styles/timeline.css";
import { t } from "../i18n.ts";

const MessageDialog = lazyDialog(() => import("./MessageDialog.tsx").then((part) => part.MessageDialog));

/** One room: its header, its timeline and its composer. `members`: whether the members are shown beside it. */
export function Room({
  room_id,
  seq,
  members,
  onMembers,
  onPerson,
  onSearch,
}: {
  room_id: string;
  seq: number | null;
  members: boolean;
  onMembers: () => void;
  /** Show who a user is */
  onPerson: Tools["person"];
  onSearch: () => void;
}) {
  const client = useClient();
  const kind = useView((view) => view.state.rooms.get(room_id)?.room.kind);
  const role = useView((view) => view.state.rooms.get(room_id)?.room.role);
  const writes = useView((view) => mayWrite(view.state.rooms.get(room_id)?.room));
  const [target, setTarget] = useState<Target | null>(null);
  const [about, setAbout] = useState<Asked | null>(null);
  const [task, setTask] = useState<RoomTask | null>(null);
  const [notice, setNotice] = useState<{ readonly text: string } | null>(null);
  const tell = useCallback((text: string) => setNotice({ text }), []);
  const tools = useTools(room_id, setTarget, setAbout, tell, onPerson);
  useReceipts(room_id);
  if (kind === undefined) return null;
  const copyAddress = async () => {
    const room = client.room(room_id)?.room;
    if (room !== undefined && (await copyToClipboard(linkTo(room)))) tell(t("The link was copied."));
    else setTask("address");
  };
  return (
    <section className="room" aria-label={t("Room")}>
      <RoomHeader
        room_id={room_id}
        members={members}
        task={task}
        onTask={setTask}
        onCopyLink={() => void copyAddress()}
        onMembers={onMembers}
        onSearch={onSearch}
        onRefused={tell}
      />
      <Timeline
        room_id={room_id}
        seq={seq}
        tools={tools}
        moderator={kind !== "direct" && (role === "owner" || role === "moderator")}
        onInvite={() => setTask("invite")}
        onCopyLink={() => void copyAddress()}
      />
      {notice !== null && <Notice notice={notice} onClose={() => setNotice(null)} />}
      <Typing room_id={room_id} />
      {writes ? (
        <Composer room_id={room_id} target={target} onTarget={setTarget} />
      ) : (
        <div className="composer">
          <p className="muted-here" role="status">
            {t("Only moderators can write in this room.")}
          </p>
        </div>
      )}
      {about !== null && <MessageDialog {...about} onClose={() => setAbout(null)} />}
    </section>
  );
}

function useTools(
  room_id: string,
  onTarget: (target: Target) => void,
  onAsk: (about: Asked) => void,
  tell: (text: string) => void,
  onPerson: Tools["person"],
): Tools {
  const client = useClient();
  const latest = useRef(onPerson);
  latest.current = onPerson;
  return useMemo(() => {
    const copy = async (text: string, done: string) =>
      tell((await copyToClipboard(text)) ? done : t("The browser does not allow this page to copy."));
    return {
      me: client.me,
      react: (message, emoji) => {
        const remove = message.reactions[emoji]?.includes(client.me) ?? false;
        client.ask("react", { message_id: message.id, emoji, remove }).catch((error) => tell(reasonOf(error)));
      },
      reply: (message) => onTarget({ kind: "reply", message }),
      edit: (message) => onTarget({ kind: "edit", message }),
      stop: (message) =>
        client.ask("stop", { message_id: message.id }).then(
          () => true,
          (error) => {
            tell(reasonOf(error));
            return false;
          },
        ),
      remove: (message) => onAsk({ task: "delete", message }),
      report: (message) => onAsk({ task: "report", message }),
      copyText: (message) => void copy(message.content, t("The text was copied.")),
      copyLink: (message) => {
        const room = client.room(room_id)?.room;
        if (room !== undefined) void copy(linkTo(room, message.seq), t("The link was copied."));
      },
      markUnread: ({ seq }) => {
        client.ask("mark_unread", { room_id, seq }).catch((error) => tell(reasonOf(error)));
      },
      jump: (seq) => open(room_id, seq),
      person: (username, anchor) => latest.current(username, anchor),
      retry: (client_id) => void client.retryUnsent(client_id),
      discard: (client_id) => void client.discardUnsent(client_id),
      opened: new Set(),
    };
  }, [client, room_id, onTarget, onAsk, tell]);
}
