import { useCallback, useState } from "react";
import { useClient, useView } from "../context.ts";
import { linkTo } from "../location.ts";
import { Composer } from "./Composer.tsx";
import { copyToClipboard } from "./clipboard.ts";
import { Notice } from "./Notice.tsx";
import type { RoomTask } from "./RoomDialog.tsx";
import { RoomHeader } from "./RoomHeader.tsx";
import { mayWrite } from "./rights.ts";
import { Timeline } from "./Timeline.tsx";
import { Typing } from "./Typing.tsx";
import type { Target } from "./target.ts";
import type { Tools } from "./tools.ts";
import { useReceipts } from "./useReceipts.ts";
import { useTools } from "./useTools.tsx";
import "../styles/timeline.css";
import { t } from "../i18n.ts";

/** One room: its header, its timeline and its composer. `members`: whether the members are shown beside it. */
export function Room({
  room_id,
  seq,
  members,
  onMembers,
  onPerson,
  onThread,
  onSearch,
}: {
  room_id: string;
  seq: number | null;
  members: boolean;
  onMembers: () => void;
  /** Show who a user is */
  onPerson: Tools["person"];
  /** Show the thread of a message beside the room */
  onThread: (id: string) => void;
  onSearch: () => void;
}) {
  const client = useClient();
  const kind = useView((view) => view.state.rooms.get(room_id)?.room.kind);
  const role = useView((view) => view.state.rooms.get(room_id)?.room.role);
  const writes = useView((view) => mayWrite(view.state.rooms.get(room_id)?.room));
  const [target, setTarget] = useState<Target | null>(null);
  const [task, setTask] = useState<RoomTask | null>(null);
  const [notice, setNotice] = useState<{ readonly text: string } | null>(null);
  const tell = useCallback((text: string) => setNotice({ text }), []);
  const { tools, dialog } = useTools(room_id, { onTarget: setTarget, tell, onPerson, onThread });
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
      {dialog}
    </section>
  );
}
