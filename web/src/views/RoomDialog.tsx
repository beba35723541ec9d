import { useMemo, useState } from "react";
import { useClient, useRoom } from "../context.ts";
import type { Room } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { linkTo, open } from "../location.ts";
import { Confirm, CopyField } from "./Confirm.tsx";
import { Field, Form, useWork } from "./form.tsx";
import { InvitationDialog } from "./InvitationDialog.tsx";
import { PeopleField } from "./PeopleField.tsx";
import { PictureField } from "./PictureField.tsx";
import { ReportsDialog } from "./ReportsDialog.tsx";
import { RoomNotifications } from "./RoomNotifications.tsx";
import { Sign } from "./Sign.tsx";
import { Dialog } from "./ui.tsx";

/** The dialogs of a room's menu. */
export type RoomTask =
  | "reports"
  | "invite"
  | "link"
  | "rename"
  | "purpose"
  | "picture"
  | "section"
  | "notify"
  | "posting"
  | "date"
  | "leave"
  | "block"
  | "unblock"
  | "address";

export function RoomDialog({
  task,
  room,
  name,
  onClose,
}: {
  task: RoomTask;
  room: Room;
  name: string;
  onClose: () => void;
}) {
  const client = useClient();
  switch (task) {
    case "reports":
      return <ReportsDialog room={room} onClose={onClose} />;
    case "invite":
      return <Invite room={room} name={name} onClose={onClose} />;
    case "link":
      return <InvitationDialog room={room} name={name} onClose={onClose} />;
    case "rename":
      return <Rename room={room} onClose={onClose} />;
    case "purpose":
      return (
        <Line
          title={t("What {name} is for", { name })}
          label={t("Purpose")}
          hint={t("Everyone who finds this room sees it.")}
          most={250}
          value={room.purpose}
          save={(purpose) => client.ask("set_purpose", { room_id: room.room_id, purpose })}
          onClose={onClose}
        />
      );
    case "picture":
      return (
        <Dialog title={t("Picture of {name}", { name })} onClose={onClose}>
          <PictureField
            shown={<Sign room={room} name={name} size={26} />}
            has={room.picture != null}
            save={(picture) => client.ask("set_picture", { room_id: room.room_id, picture })}
          />
        </Dialog>
      );
    case "section":
      return (
        <Line
          title={t("Section of {name}", { name })}
          label={t("Section")}
          hint={
            room.preferences?.favourite
              ? t("Only you see it, on every device. A favourite stays among the favourites.")
              : t("Only you see it, on every device. Rooms of the same section stand together.")
          }
          most={64}
          value={room.preferences?.section ?? null}
          save={(section) => client.ask("set_preferences", { room_id: room.room_id, section })}
          onClose={onClose}
        />
      );
    case "notify":
      return <RoomNotifications room={room} name={name} onClose={onClose} />;
    case "posting": {
      const posting = room.posting === "members" ? "moderators" : "members";
      return (
        <Confirm
          title={posting === "members" ? t("Let all members write?") : t("Let only moderators write?")}
          does={posting === "members" ? t("Let all write") : t("Restrict")}
          work={async () => void (await client.ask("set_posting", { room_id: room.room_id, posting }))}
          onClose={onClose}
        >
          <p>
            {posting === "members"
              ? t("Every member of this room will be able to write.")
              : t("Other members will read, and react to messages, but not write.")}
          </p>
        </Confirm>
      );
    }
    case "date":
      return <GoToDate room={room} onClose={onClose} />;
    case "leave":
      return (
        <Confirm
          title={t("Leave {name}?", { name })}
          does={t("Leave")}
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
          title={t("Block {name}?", { name })}
          does={t("Block")}
          danger
          work={() => client.blocks.block(name)}
          onClose={onClose}
        >
          <p>
            {t("{name} will not be able to send you direct messages or invite you, or see whether you are online.", {
              name,
            })}
          </p>
        </Confirm>
      );
    case "unblock":
      return (
        <Confirm
          title={t("Unblock {name}?", { name })}
          does={t("Unblock")}
          work={() => client.blocks.unblock(name)}
          onClose={onClose}
        >
          <p>
            {t("{name} will be able to send you direct messages, to invite you, and to see whether you are online.", {
              name,
            })}
          </p>
        </Confirm>
      );
    case "address":
      return (
        <Dialog title={t("Link to this room")} onClose={onClose}>
          <CopyField label={t("Link")} value={linkTo(room)} />
        </Dialog>
      );
  }
}

/** The consequences of leaving the room. */
function leaving(room: Room): string[] {
  const alone = room.members === 1;
  const isPublic = room.kind === "topic" && !room.is_private;
  const heir = t(
    "You own this room. Ownership passes to the moderator who has been here longest or, without one, to the member.",
  );
  const back = isPublic
    ? t("You can join again at any time.")
    : alone
      ? t("You are the only member: no one will be able to come back.")
      : t("You can come back only if somebody invites you.");
  return room.role === "owner" && !alone ? [heir, back] : [back];
}

function Invite({ room, name, onClose }: { room: Room; name: string; onClose: () => void }) {
  const client = useClient();
  const work = useWork();
  const [username, setUsername] = useState("");
  const members = useRoom(room.room_id)?.members;
  const without = useMemo(() => new Set(members?.keys()).add(client.me), [members, client]);
  const [invited, setInvited] = useState<string | null>(null);
  const invite = async () => {
    setInvited(null);
    const done = await work.run(() => client.ask("invite", { room_id: room.room_id, username: username.trim() }));
    if (!done) return;
    setInvited(username.trim());
    setUsername("");
  };
  return (
    <Dialog title={t("Invite to {name}", { name })} onClose={onClose}>
      <Form onSubmit={() => void invite()}>
        <PeopleField
          value={username}
          without={without}
          hint={t("They become a member right away.")}
          error={work.error}
          onChange={setUsername}
          onChoose={setUsername}
          onEnter={() => void invite()}
        />
        <p role="status">{invited !== null && t("{invited} is now a member.", { invited })}</p>
        <footer>
          <button type="button" className="button" onClick={onClose}>
            {t("Close")}
          </button>
          <button type="submit" className="button primary" disabled={work.busy || username.trim() === ""}>
            {t("Invite")}
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}

function GoToDate({ room, onClose }: { room: Room; onClose: () => void }) {
  const client = useClient();
  const work = useWork();
  const [date, setDate] = useState("");
  const [missing, setMissing] = useState(false);
  const go = () =>
    work.run(async () => {
      const midnight = new Date(`${date}T00:00`); // by the clock of the user
      const seq = await client.load.firstSince(room.room_id, midnight.toISOString());
      setMissing(seq === null);
      if (seq === null) return;
      onClose();
      open(room.room_id, seq);
    });
  return (
    <Dialog title={t("Go to a date")} onClose={onClose}>
      <Form onSubmit={() => void go()}>
        <Field
          label={t("Date")}
          type="date"
          data-autofocus
          value={date}
          error={work.error ?? (missing ? t("There are no messages on this date or later.") : null)}
          onChange={(event) => {
            setMissing(false);
            setDate(event.target.value);
          }}
        />
        <footer>
          <button type="button" className="button" onClick={onClose}>
            {t("Cancel")}
          </button>
          <button
            type="submit"
            className="button primary"
            disabled={work.busy || Number.isNaN(Date.parse(`${date}T00:00`))}
          >
            {t("Go")}
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}

/** Asks for one line of text, which may be empty. */
function Line({
  title,
  label,
  hint,
  most,
  value,
  save,
  onClose,
}: {
  title: string;
  label: string;
  hint: string;
  most: number;
  value: string | null;
  save: (text: string | null) => Promise<unknown>;
  onClose: () => void;
}) {
  const work = useWork();
  const [text, setText] = useState(value ?? "");
  const submit = async () => {
    if (await work.run(() => save(text.trim() === "" ? null : text.trim()))) onClose();
  };
  return (
    <Dialog title={title} onClose={onClose}>
      <Form onSubmit={() => void submit()}>
        <Field
          label={label}
          hint={hint}
          data-autofocus
          autoComplete="off"
          maxLength={most}
          value={text}
          error={work.error}
          onChange={(event) => setText(event.target.value)}
        />
        <footer>
          <button type="button" className="button" onClick={onClose}>
            {t("Cancel")}
          </button>
          <button type="submit" className="button primary" disabled={work.busy}>
            {t("Save")}
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
    <Dialog title={t("Rename group")} onClose={onClose}>
      <Form onSubmit={() => void rename()}>
        <Field
          label={t("Name")}
          data-autofocus
          autoComplete="off"
          maxLength={128}
          value={title}
          error={work.error}
          onChange={(event) => setTitle(event.target.value)}
        />
        <footer>
          <button type="button" className="button" onClick={onClose}>
            {t("Cancel")}
          </button>
          <button type="submit" className="button primary" disabled={work.busy || title.trim() === ""}>
            {t("Rename")}
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}
