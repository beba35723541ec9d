import { useId, useState } from "react";
import type { Client } from "../client.ts";
import { useClient } from "../context.ts";
import type { InvitationLink, Room } from "../contract.gen.ts";
import { invitationIn, invitationTo } from "../location.ts";
import { momentOf, nameOf } from "../text.ts";
import { CopyField } from "./Confirm.tsx";
import { Dialog, Field, Form, useWork } from "./ui.tsx";

const DAY = 24 * 3600;
const LASTING: readonly { readonly seconds: number | null; readonly text: string }[] = [
  { seconds: 3600, text: "1 hour" },
  { seconds: DAY, text: "1 day" },
  { seconds: 7 * DAY, text: "7 days" },
  { seconds: 30 * DAY, text: "30 days" },
  { seconds: null, text: "Until it is ended" },
];

/** The links that were made since the page was opened: the server does not list them. */
const made = new WeakMap<Client, readonly InvitationLink[]>();

/** Make a link by which others come into the room, and end one. */
export function InvitationDialog({ room, onClose }: { room: Room; onClose: () => void }) {
  const client = useClient();
  const [links, setLinks] = useState(made.get(client) ?? []);
  const keep = (next: readonly InvitationLink[]) => {
    made.set(client, next);
    setLinks(next);
  };
  const end = async (code: string) => {
    await client.ask("delete_invitation_link", { code });
    keep((made.get(client) ?? []).filter((link) => link.code !== code));
  };
  return (
    <Dialog title={`Invitation link to ${nameOf(room)}`} onClose={onClose}>
      {links
        .filter((link) => link.room_id === room.room_id)
        .map((link) => (
          <Made key={link.code} link={link} end={() => end(link.code)} />
        ))}
      <Make room={room} onMade={(link) => keep([link, ...links])} />
      <details>
        <summary>End a link that was made earlier</summary>
        <End end={end} />
      </details>
    </Dialog>
  );
}

function Made({ link, end }: { link: InvitationLink; end: () => Promise<void> }) {
  const work = useWork();
  const until = link.expires_at === null ? "Good until it is ended" : `Good until ${momentOf(link.expires_at)}`;
  const uses =
    link.uses_left === null
      ? "for any number"
      : link.uses_left === 1
        ? "for one person"
        : `for ${link.uses_left} people`;
  return (
    <div className="made-link">
      <CopyField label="Link" value={invitationTo(link.code)} />
      <div className="row">
        <span className="muted small grow">
          {until}, {uses}.
        </span>
        <button type="button" className="button danger" disabled={work.busy} onClick={() => void work.run(end)}>
          End
        </button>
      </div>
      {work.error !== null && (
        <p role="alert" className="error">
          {work.error}
        </p>
      )}
    </div>
  );
}

function Make({ room, onMade }: { room: Room; onMade: (link: InvitationLink) => void }) {
  const client = useClient();
  const work = useWork();
  const id = useId();
  const [lasting, setLasting] = useState(2);
  const [uses, setUses] = useState("");
  const wrong = uses !== "" && !(/^\d{1,7}$/.test(uses) && Number(uses) >= 1 && Number(uses) <= 1_000_000);
  const make = () =>
    work.run(async () => {
      const request = {
        room_id: room.room_id,
        expires_in: LASTING[lasting]?.seconds ?? null,
        uses: uses === "" ? null : Number(uses),
      };
      onMade(await client.ask("create_invitation_link", request));
    });
  return (
    <Form onSubmit={() => (wrong ? undefined : void make())}>
      <p className="muted">Whoever has the link becomes a member by opening it.</p>
      <div className="two">
        <div className="field">
          <label className="label" htmlFor={`${id}-lasting`}>
            Good for
          </label>
          <select
            id={`${id}-lasting`}
            className="input"
            value={lasting}
            onChange={(event) => setLasting(Number(event.target.value))}
          >
            {LASTING.map(({ text }, index) => (
              <option key={text} value={index}>
                {text}
              </option>
            ))}
          </select>
        </div>
        <Field
          label="How many may use it"
          inputMode="numeric"
          autoComplete="off"
          placeholder="Any number"
          value={uses}
          error={wrong ? "A number from 1 to 1,000,000, or nothing." : null}
          onChange={(event) => setUses(event.target.value.trim())}
        />
      </div>
      {work.error !== null && (
        <p role="alert" className="error">
          {work.error}
        </p>
      )}
      <footer>
        <button type="submit" className="button primary" disabled={work.busy || wrong}>
          Create link
        </button>
      </footer>
    </Form>
  );
}

function End({ end }: { end: (code: string) => Promise<void> }) {
  const work = useWork();
  const [text, setText] = useState("");
  const [ended, setEnded] = useState(false);
  const submit = async () => {
    setEnded(false);
    if (!(await work.run(() => end(invitationIn(text))))) return;
    setText("");
    setEnded(true);
  };
  return (
    <Form onSubmit={() => void submit()}>
      <Field
        label="Link or code"
        verbatim
        value={text}
        error={work.error}
        onChange={(event) => setText(event.target.value)}
      />
      <p role="status">{ended && "The link no longer works."}</p>
      <footer>
        <button type="submit" className="button danger" disabled={work.busy || text.trim() === ""}>
          End this link
        </button>
      </footer>
    </Form>
  );
}
