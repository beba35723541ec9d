import { useEffect, useId, useState } from "react";
import type { Client } from "../client.ts";
import { useClient } from "../context.ts";
import type { InvitationLink, InvitationLinks, Room } from "../contract.gen.ts";
import { m, n, t, tx } from "../i18n.ts";
import { invitationTo } from "../location.ts";
import { momentOf, reasonOf } from "../text.ts";
import { CopyField } from "./Confirm.tsx";
import { Field, Form, useWork } from "./form.tsx";
import { Dialog } from "./ui.tsx";

const DAY = 24 * 3600;
const LASTING: readonly { readonly seconds: number | null; readonly text: string }[] = [
  { seconds: 3600, text: m("1 hour") },
  { seconds: DAY, text: m("1 day") },
  { seconds: 7 * DAY, text: m("7 days") },
  { seconds: 30 * DAY, text: m("30 days") },
  { seconds: null, text: m("Until revoked") },
];

/** Lists the invitation links of a room that still work, and creates new ones. */
export function InvitationDialog({ room, name, onClose }: { room: Room; name: string; onClose: () => void }) {
  const client = useClient();
  const { room_id } = room;
  /** The newest first; null: not loaded yet */
  const [links, setLinks] = useState<readonly InvitationLink[] | null>(null);
  const [failed, setFailed] = useState<string | null>(null);
  useEffect(() => {
    let over = false;
    linksOf(client, room_id).then(
      (found) =>
        over || setLinks((made) => [...(made ?? []), ...found.filter((link) => !made?.some(isLink(link.code)))]),
      (error: unknown) => over || setFailed(reasonOf(error)),
    );
    return () => {
      over = true;
    };
  }, [client, room_id]);
  const end = async (code: string) => {
    await client.ask("delete_invitation_link", { code });
    setLinks((known) => known?.filter((link) => !isLink(code)(link)) ?? null);
  };
  return (
    <Dialog title={t("Invitation link to {name}", { name })} onClose={onClose}>
      {failed !== null && (
        <p role="alert" className="error">
          {failed}
        </p>
      )}
      {links?.map((link) => (
        <Made
          key={link.code}
          link={link}
          name={room.topic_name ?? room.title ?? ""}
          me={client.me}
          end={() => end(link.code)}
        />
      ))}
      <Make room={room} onMade={(link) => setLinks((known) => [link, ...(known ?? [])])} />
    </Dialog>
  );
}

const isLink = (code: string) => (link: InvitationLink) => link.code === code;

/** The links that still work: the user's own; for a moderator, all. Raises a `TidingsError`. */
async function linksOf(client: Client, room_id: string): Promise<InvitationLink[]> {
  const links: InvitationLink[] = [];
  let after: string | null = null;
  do {
    const next: { after?: string } = after === null ? {} : { after };
    const page: InvitationLinks = await client.ask("get_invitation_links", { room_id, ...next });
    links.push(...page.links);
    after = page.next;
  } while (after !== null);
  return links.sort((one, other) => other.created_at.localeCompare(one.created_at));
}

function Made({ link, name, me, end }: { link: InvitationLink; name: string; me: string; end: () => Promise<void> }) {
  const work = useWork();
  const until =
    link.expires_at === null
      ? t("Valid until revoked")
      : t("Valid until {time}", { time: momentOf(link.expires_at) });
  const uses =
    link.uses_left === null ? t("unlimited uses") : n("{count} use left", "{count} uses left", link.uses_left);
  return (
    <div className="made-link">
      <CopyField label={t("Link")} value={invitationTo({ code: link.code, name })} />
      <div className="row">
        <span className="muted small grow">
          {link.username === me
            ? t("{until}, {uses}.", { until, uses })
            : tx("{until}, {uses}, created by {username}.", { until, uses, username: <bdi>{link.username}</bdi> })}
        </span>
        <button type="button" className="button danger" disabled={work.busy} onClick={() => void work.run(end)}>
          {t("Revoke")}
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
      <p className="muted">{t("Anyone who opens the link and signs in can join.")}</p>
      <div className="two">
        <div className="field">
          <label className="label" htmlFor={`${id}-lasting`}>
            {t("Valid for")}
          </label>
          <select
            id={`${id}-lasting`}
            className="input"
            value={lasting}
            onChange={(event) => setLasting(Number(event.target.value))}
          >
            {LASTING.map(({ text }, index) => (
              <option key={text} value={index}>
                {t(text)}
              </option>
            ))}
          </select>
        </div>
        <Field
          label={t("Maximum uses")}
          inputMode="numeric"
          autoComplete="off"
          placeholder={t("Unlimited")}
          value={uses}
          error={wrong ? t("Enter a number from 1 to 1,000,000, or leave it empty.") : null}
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
          {t("Create link")}
        </button>
      </footer>
    </Form>
  );
}
