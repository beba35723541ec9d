import { useEffect, useState } from "react";
import { useClient } from "../context.ts";
import type { Ban } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { momentOf } from "../text.ts";
import { Avatar } from "./Avatar.tsx";
import { useWork } from "./form.tsx";

const PAGE = 100;

/** The banned users of a room, with a button to unban each. */
export function Bans({ room_id }: { room_id: string }) {
  const client = useClient();
  const [bans, setBans] = useState<readonly Ban[] | null>(null);
  const [next, setNext] = useState<string | null>(null);
  const { busy, error, run } = useWork();
  const load = (after: string | null) =>
    run(async () => {
      const page = await client.ask("get_bans", { room_id, limit: PAGE, ...(after === null ? {} : { after }) });
      setBans((before) => [...(after === null ? [] : (before ?? [])), ...page.bans]);
      setNext(page.next);
    });
  // biome-ignore lint/correctness/useExhaustiveDependencies: once, when it is shown
  useEffect(() => void load(null), []);
  const unban = (username: string) =>
    run(async () => {
      await client.ask("unban", { room_id, username });
      setBans((before) => before?.filter((ban) => ban.username !== username) ?? null);
    });
  return (
    <div className="content members">
      {error !== null && (
        <p role="alert" className="error">
          {error}
        </p>
      )}
      <p role="status" className="muted">
        {bans === null && error === null && t("Loading…")}
        {bans?.length === 0 && t("No one is banned.")}
      </p>
      <ul>
        {bans?.map(({ username, expires_at }) => (
          <li key={username} className="member">
            <Avatar name={username} />
            <span className="grow">
              <span className="ellipsis">{username}</span>
              <span className="muted small seen">
                {expires_at === null ? t("permanently") : t("until {time}", { time: momentOf(expires_at) })}
              </span>
            </span>
            <button
              type="button"
              className="button"
              aria-label={t("Unban {username}", { username })}
              disabled={busy}
              onClick={() => void unban(username)}
            >
              {t("Unban")}
            </button>
          </li>
        ))}
      </ul>
      {next !== null && (
        <button type="button" className="button" disabled={busy} onClick={() => void load(next)}>
          {t("Show more")}
        </button>
      )}
    </div>
  );
}
