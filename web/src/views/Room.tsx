import { useCallback, useMemo, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { Message } from "../contract.gen.ts";
import { linkTo, open } from "../location.ts";
import { reasonOf } from "../text.ts";
import { Composer } from "./Composer.tsx";
import { Notice } from "./Notice.tsx";
import { RoomHeader } from "./RoomHeader.tsx";
import { Timeline } from "./Timeline.tsx";
import { Typing } from "./Typing.tsx";
import type { Tools } from "./tools.ts";
import { Dialog, Form, useWork } from "./ui.tsx";
import { useReceipts } from "./useReceipts.ts";
import "../styles/timeline.css";

/** What the composer is about, besides a new message. */
export interface Target {
  readonly kind: "reply" | "edit";
  readonly message: Message;
}

/** One room: its header, its timeline, and where one writes. `members`: who is in it is shown beside it. */
export function Room({
  room_id,
  seq,
  members,
  onMembers,
  onSearch,
}: {
  room_id: string;
  seq: number | null;
  members: boolean;
  onMembers: () => void;
  onSearch: () => void;
}) {
  const kind = useView((view) => view.state.rooms.get(room_id)?.room.kind);
  const role = useView((view) => view.state.rooms.get(room_id)?.room.role);
  const [target, setTarget] = useState<Target | null>(null);
  const [removing, setRemoving] = useState<Message | null>(null);
  const [notice, setNotice] = useState<{ readonly text: string } | null>(null);
  const tell = useCallback((text: string) => setNotice({ text }), []);
  const tools = useTools(room_id, setTarget, setRemoving, tell);
  useReceipts(room_id);
  if (kind === undefined) return null;
  return (
    <section className="room" aria-label="Room">
      <RoomHeader room_id={room_id} members={members} onMembers={onMembers} onSearch={onSearch} />
      <Timeline
        room_id={room_id}
        seq={seq}
        tools={tools}
        moderator={kind !== "direct" && (role === "owner" || role === "moderator")}
      />
      {notice !== null && <Notice notice={notice} onClose={() => setNotice(null)} />}
      <Typing room_id={room_id} />
      <Composer room_id={room_id} target={target} onTarget={setTarget} />
      {removing !== null && <Removal message={removing} onClose={() => setRemoving(null)} />}
    </section>
  );
}

function useTools(
  room_id: string,
  onTarget: (target: Target) => void,
  onRemove: (message: Message) => void,
  tell: (text: string) => void,
): Tools {
  const client = useClient();
  return useMemo(() => {
    const copy = (text: string, done: string) =>
      navigator.clipboard === undefined
        ? tell("This browser lets a page copy only over HTTPS.")
        : void navigator.clipboard.writeText(text).then(
            () => tell(done),
            () => tell("The browser did not let this page copy."),
          );
    return {
      me: client.me,
      react: (message, emoji) => {
        const remove = message.reactions[emoji]?.includes(client.me) ?? false;
        client.ask("react", { message_id: message.id, emoji, remove }).catch((error) => tell(reasonOf(error)));
      },
      reply: (message) => onTarget({ kind: "reply", message }),
      edit: (message) => onTarget({ kind: "edit", message }),
      remove: onRemove,
      copyText: (message) => copy(message.content, "The text is copied."),
      copyLink: (message) => copy(linkTo(room_id, message.seq), "The link is copied."),
      jump: (seq) => open(room_id, seq),
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
    <Dialog title="Delete this?" onClose={onClose}>
      <Form onSubmit={() => void remove()}>
        <p>Everybody sees that something was deleted, but not what it was. This cannot be undone.</p>
        <blockquote className="removal">
          <b>{message.sender}</b> {message.content.slice(0, 300)}
        </blockquote>
        {error !== null && (
          <p className="error" role="alert">
            {error}
          </p>
        )}
        <footer>
          <button type="button" className="button" onClick={onClose}>
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
