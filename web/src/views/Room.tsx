import { useCallback, useMemo, useRef, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { Message } from "../contract.gen.ts";
import { linkTo, open } from "../location.ts";
import { reasonOf } from "../text.ts";
import { Composer } from "./Composer.tsx";
import { copyToClipboard } from "./clipboard.ts";
import { Form, useWork } from "./form.tsx";
import { Notice } from "./Notice.tsx";
import type { RoomTask } from "./RoomDialog.tsx";
import { RoomHeader } from "./RoomHeader.tsx";
import { mayWrite } from "./rights.ts";
import { Timeline } from "./Timeline.tsx";
import { Typing } from "./Typing.tsx";
import type { Target } from "./target.ts";
import type { Tools } from "./tools.ts";
import { Dialog } from "./ui.tsx";
import { useReceipts } from "./useReceipts.ts";
import "../styles/timeline.css";

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
  const [removing, setRemoving] = useState<Message | null>(null);
  const [task, setTask] = useState<RoomTask | null>(null);
  const [notice, setNotice] = useState<{ readonly text: string } | null>(null);
  const tell = useCallback((text: string) => setNotice({ text }), []);
  const tools = useTools(room_id, setTarget, setRemoving, tell, onPerson);
  useReceipts(room_id);
  if (kind === undefined) return null;
  const copyAddress = async () => {
    const room = client.room(room_id)?.room;
    if (room !== undefined && (await copyToClipboard(linkTo(room)))) tell("The link was copied.");
    else setTask("address");
  };
  return (
    <section className="room" aria-label="Room">
      <RoomHeader
        room_id={room_id}
        members={members}
        task={task}
        onTask={setTask}
        onCopyLink={() => void copyAddress()}
        onMembers={onMembers}
        onSearch={onSearch}
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
            Only moderators can write in this room.
          </p>
        </div>
      )}
      {removing !== null && <Removal message={removing} onClose={() => setRemoving(null)} />}
    </section>
  );
}

function useTools(
  room_id: string,
  onTarget: (target: Target) => void,
  onRemove: (message: Message) => void,
  tell: (text: string) => void,
  onPerson: Tools["person"],
): Tools {
  const client = useClient();
  const latest = useRef(onPerson);
  latest.current = onPerson;
  return useMemo(() => {
    const copy = async (text: string, done: string) =>
      tell((await copyToClipboard(text)) ? done : "The browser does not allow this page to copy.");
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
      remove: onRemove,
      copyText: (message) => void copy(message.content, "The text was copied."),
      copyLink: (message) => {
        const room = client.room(room_id)?.room;
        if (room !== undefined) void copy(linkTo(room, message.seq), "The link was copied.");
      },
      jump: (seq) => open(room_id, seq),
      person: (username, anchor) => latest.current(username, anchor),
      retry: (client_id) => void client.retryUnsent(client_id),
      discard: (client_id) => void client.discardUnsent(client_id),
      opened: new Set(),
    };
  }, [client, room_id, onTarget, onRemove, tell]);
}

function Removal({ message, onClose }: { message: Message; onClose: () => void }) {
  const client = useClient();
  const { busy, error, run } = useWork();
  const remove = async () => {
    if (await run(() => client.ask("delete", { message_id: message.id }))) onClose();
  };
  return (
    <Dialog title="Delete this message?" onClose={onClose}>
      <Form onSubmit={() => void remove()}>
        <p>Everyone will see that a message was deleted, but not what it said. This cannot be undone.</p>
        <blockquote className="removal" dir="auto">
          <b>{message.sender}</b> {message.content.slice(0, 300)}
        </blockquote>
        {error !== null && (
          <p className="error" role="alert">
            {error}
          </p>
        )}
        <footer>
          <button type="button" className="button" data-autofocus onClick={onClose}>
            Cancel
          </button>
          <button type="submit" className="button danger" disabled={busy}>
            Delete
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}
