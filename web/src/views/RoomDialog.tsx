import { useState } from "react";
import { useClient } from "../context.ts";
import type { Room } from "../contract.gen.ts";
import { open } from "../location.ts";
import { nameOf } from "../text.ts";
import { Confirm, CopyField } from "./Confirm.tsx";
import { InvitationDialog } from "./InvitationDialog.tsx";
import { Dialog, Field, Form, useWork } from "./ui.tsx";

/** What the menu of a room asks for. */
export type RoomTask = "invite" | "link" | "rename" | "leave" | "block" | "unblock" | "address";

export function RoomDialog({
  task,
  room,
  address,
  onClose,
}: {
  task: RoomTask;
  room: Room;
  /** Of the room, on this page */
  address: string;
  onClose: () => void;
}) {
  const client = useClient();
  const name = nameOf(room);
  switch (task) {
    case "invite":
      return <Invite room={room} onClose={onClose} />;
    case "link":
      return <InvitationDialog room={room} onClose={onClose} />;
    case "rename":
      return <Rename room={room} onClose={onClose} />;
    case "leave":
      return (
        <Confirm
          title={`Leave ${name}?`}
          does="Leave"
          danger
          work={async () => {
            await client.ask("unsubscribe", { room_id: room.room_id });
            open(null);
          }}
          onClose={onClose}
        >
          {leaving(room).map((sentence) => (
            <p key={sentence}>{sentence}</p>
          ))}
        </Confirm>
      );
    case "block":
      return (
        <Confirm
          title={`Block ${name}?`}
          does="Block"
          danger
          work={() => client.blocks.block(name)}
          onClose={onClose}
        >
          <p>{name} can then neither write to you nor invite you, and does not see whether you are online.</p>
        </Confirm>
      );
    case "unblock":
      return (
        <Confirm title={`Unblock ${name}?`} does="Unblock" work={() => client.blocks.unblock(name)} onClose={onClose}>
          <p>{name} can then write to you and invite you again, and sees whether you are online.</p>
        </Confirm>
      );
    case "address":
      return (
        <Dialog title="Link to this room" onClose={onClose}>
          <CopyField label="Link" value={address} />
        </Dialog>
      );
  }
}

/** What it means to leave the room. */
function leaving(room: Room): string[] {
  const alone = room.members === 1;
  const isPublic = room.kind === "topic" && !room.is_private;
  const heir =
    "You own this room. It goes to its longest-standing moderator, or else to its longest-standing member.";
  const back = isPublic
    ? "You can come back whenever you like."
    : alone
      ? "You are the only one here: nobody will be able to come back."
      : "You can come back only if somebody invites you again.";
  return room.role === "owner" && !alone ? [heir, back] : [back];
}

function Invite({ room, onClose }: { room: Room; onClose: () => void }) {
  const client = useClient();
  const work = useWork();
  const [username, setUsername] = useState("");
  const [invited, setInvited] = useState<string | null>(null);
  const invite = async () => {
    setInvited(null);
    const done = await work.run(() => client.ask("invite", { room_id: room.room_id, username: username.trim() }));
    if (!done) return;
    setInvited(username.trim());
    setUsername("");
  };
  return (
    <Dialog title={`Invite to ${nameOf(room)}`} onClose={onClose}>
      <Form onSubmit={() => void invite()}>
        <Field
          label="Username"
          hint="Whom you invite is a member at once."
          data-autofocus
          verbatim
          value={username}
          error={work.error}
          onChange={(event) => setUsername(event.target.value)}
        />
        <p role="status">{invited !== null && `${invited} is a member now.`}</p>
        <footer>
          <button type="button" className="button" onClick={onClose}>
            Close
          </button>
          <button type="submit" className="button primary" disabled={work.busy || username.trim() === ""}>
            Invite
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}

function Rename({ room, onClose }: { room: Room; onClose: () => void }) {
  const client = useClient();
  const work = useWork();
  const [title, setTitle] = useState(room.title ?? "");
  const rename = async () => {
    const { room_id } = room;
    if (await work.run(() => client.ask("set_title", { room_id, title: title.trim() }))) onClose();
  };
  return (
    <Dialog title="Rename the group" onClose={onClose}>
      <Form onSubmit={() => void rename()}>
        <Field
          label="Name"
          data-autofocus
          autoComplete="off"
          maxLength={128}
          value={title}
          error={work.error}
          onChange={(event) => setTitle(event.target.value)}
        />
        <footer>
          <button type="button" className="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" className="button primary" disabled={work.busy || title.trim() === ""}>
            Rename
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}
