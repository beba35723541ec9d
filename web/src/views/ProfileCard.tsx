import "../styles/profile.css";
import { Popover, PopoverHeading, PopoverProvider } from "@ariakit/react";
import { AtSign, Ban, MessageCircle } from "lucide-react";
import { useEffect, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { Profile } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { open } from "../location.ts";
import { agoOf, isAhead, reasonOf, whenOf } from "../text.ts";
import { Avatar } from "./Avatar.tsx";
import { writeInBox } from "./box.ts";
import { useWork } from "./form.tsx";

/** Who a user is, beside their name. */
export function ProfileCard({
  username,
  anchor,
  onClose,
}: {
  username: string;
  /** The name or avatar that was pressed */
  anchor: HTMLElement;
  onClose: () => void;
}) {
  const client = useClient();
  const { profile, failed } = useLoaded(username);
  // As the server writes it: a mention may differ in case.
  const name = profile?.username ?? username;
  const told = useView((view) => view.state.presence.get(name));
  const online = told?.online ?? profile?.online ?? false;
  const seen = told?.last_seen ?? profile?.last_seen ?? null;
  const until = profile?.do_not_disturb_until ?? null;
  const quiet = isAhead(until);
  const status = profile?.status ?? null;
  return (
    <PopoverProvider open setOpen={(shown) => shown || onClose()} placement="bottom-start">
      <Popover
        className="profile-card"
        portal
        modal
        gutter={6}
        getAnchorRect={() => anchor.getBoundingClientRect()}
        finalFocus={anchor.closest<HTMLElement>("button, [tabindex]") ?? anchor}
      >
        <header>
          <Avatar name={name} online={online} quiet={quiet} />
          <div>
            <PopoverHeading render={(props) => <h2 dir="auto" {...props} />}>
              {profile?.display_name ?? name}
            </PopoverHeading>
            <p className="muted small">
              @<bdi>{name}</bdi>
              {online ? ` · ${t("online")}` : seen !== null && ` · ${t("last seen {time}", { time: agoOf(seen) })}`}
            </p>
          </div>
        </header>
        {failed !== null && (
          <p role="alert" className="error">
            {failed}
          </p>
        )}
        {status !== null && (status.until === null || isAhead(status.until)) && (
          <p>
            {status.emoji} {status.text}
            {status.until !== null && (
              <span className="muted small"> {t("until {time}", { time: whenOf(status.until) })}</span>
            )}
          </p>
        )}
        {quiet && until !== null && (
          <p className="muted small">{t("Do not disturb until {time}", { time: whenOf(until) })}</p>
        )}
        {profile !== null && name !== client.me && <Actions username={name} onClose={onClose} />}
      </Popover>
    </PopoverProvider>
  );
}

/** The profile as the server has it now, and then as events change it. */
function useLoaded(username: string): { profile: Profile | null; failed: string | null } {
  const client = useClient();
  const [loaded, setLoaded] = useState<Profile | null>(null);
  const [failed, setFailed] = useState<string | null>(null);
  const changed = useView((view) => view.state.profiles.get(username));
  useEffect(() => {
    let over = false;
    client.load.profile(username).then(
      (profile) => over || setLoaded(profile),
      (error: unknown) => over || setFailed(reasonOf(error)),
    );
    return () => {
      over = true;
    };
  }, [client, username]);
  return { profile: loaded === null ? null : { ...loaded, ...changed }, failed };
}

function Actions({ username, onClose }: { username: string; onClose: () => void }) {
  const client = useClient();
  const { busy, error, run } = useWork();
  const blocked = useView((view) => view.blocked?.has(username) ?? null);
  const writes = document.querySelector(".composer textarea") !== null;
  useEffect(() => {
    // On failure it stays unknown, and the card does not offer it.
    client.blocks.load().catch(() => undefined);
  }, [client]);
  const write = () =>
    run(async () => {
      open((await client.ask("create_conversation", { usernames: [username] })).room_id);
      onClose();
    });
  const mention = () => {
    onClose();
    // Until the next frame, the card gives the focus back.
    requestAnimationFrame(() => requestAnimationFrame(() => writeInBox(`@${username} `)));
  };
  const block = () => run(() => (blocked ? client.blocks.unblock(username) : client.blocks.block(username)));
  return (
    <>
      {error !== null && (
        <p role="alert" className="error">
          {error}
        </p>
      )}
      <footer>
        <button type="button" className="button primary" disabled={busy} onClick={() => void write()}>
          <MessageCircle size={16} /> {t("Message")}
        </button>
        {writes && (
          <button type="button" className="button" onClick={mention}>
            <AtSign size={16} /> {t("Mention")}
          </button>
        )}
        {blocked !== null && (
          <button type="button" className="button danger" disabled={busy} onClick={() => void block()}>
            <Ban size={16} /> {blocked ? t("Unblock") : t("Block")}
          </button>
        )}
      </footer>
    </>
  );
}
