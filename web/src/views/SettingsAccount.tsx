/** The settings on the server: devices, password, blocked users, closing the account. */
import { Laptop, Smartphone } from "lucide-react";
import { type ReactNode, useCallback, useEffect, useId, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { Session } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { addressWith } from "../location.ts";
import { agoOf, momentOf } from "../text.ts";
import { Avatar } from "./Avatar.tsx";
import { Problem, useAnswer } from "./answer.tsx";
import { CopyField } from "./Confirm.tsx";
import { Field, Form, useWork } from "./form.tsx";

export function Devices() {
  const client = useClient();
  const ask = useCallback(() => client.ask("get_sessions", {}), [client]);
  const { answer, failed, again } = useAnswer(ask);
  const { busy, error, run } = useWork();
  const end = (sessions: readonly Session[]) =>
    run(async () => {
      for (const { session_id } of sessions) await client.ask("revoke_session", { session_id });
    }).then(again);
  const others = answer?.sessions.filter(({ current }) => !current) ?? [];
  return (
    <section>
      <h3>{t("Where you are signed in")}</h3>
      <Problem text={failed ?? error} />
      {answer === null && failed === null && <p className="muted">{t("Loading…")}</p>}
      <ul className="devices">
        {answer?.sessions.map((session) => {
          const { name, phone } = deviceOf(session.user_agent);
          const Icon = phone ? Smartphone : Laptop;
          return (
            <li key={session.session_id}>
              <Icon size={22} aria-hidden="true" />
              <span className="grow">
                <strong data-tip={session.user_agent ?? undefined}>{name}</strong>
                <span className="muted small" data-tip={momentOf(session.created_at)}>
                  {session.current
                    ? t("This device, signed in {time}", { time: agoOf(session.created_at) })
                    : t("Signed in {time}, {used}", { time: agoOf(session.created_at), used: usedOf(session) })}
                </span>
              </span>
              {!session.current && (
                <button
                  type="button"
                  className="button"
                  aria-label={t("Sign out {name}, signed in {time}, {used}", {
                    name,
                    time: agoOf(session.created_at),
                    used: usedOf(session),
                  })}
                  disabled={busy}
                  onClick={() => end([session])}
                >
                  {t("Sign out")}
                </button>
              )}
            </li>
          );
        })}
      </ul>
      {others.length > 1 && (
        <button type="button" className="button danger" disabled={busy} onClick={() => end(others)}>
          {t("Sign out all other devices")}
        </button>
      )}
    </section>
  );
}

/** When a session was last used. The server knows that to within an hour, unless it is in use. */
export function usedOf({ online, last_used_at }: Session): string {
  if (online) return t("in use now");
  return Date.now() - Date.parse(last_used_at) < 3_600_000
    ? t("used within the last hour")
    : t("last used {time}", { time: agoOf(last_used_at) });
}

const SYSTEMS: readonly [RegExp, string][] = [
  [/android/i, "Android"],
  [/iphone|ipad/i, "iOS"],
  [/windows/i, "Windows"],
  [/mac os|macintosh/i, "macOS"],
  [/cros/i, "ChromeOS"],
  [/linux/i, "Linux"],
];
const BROWSERS: readonly [RegExp, string][] = [
  [/edg\//i, "Edge"],
  [/opr\//i, "Opera"],
  [/firefox|fxios/i, "Firefox"],
  [/chrome|chromium|crios/i, "Chrome"],
  [/safari/i, "Safari"],
];

/** "Firefox on Linux"; for other clients, the first word of the user agent. */
export function deviceOf(user_agent: string | null): { name: string; phone: boolean } {
  if (user_agent === null || user_agent === "") return { name: t("Unknown device"), phone: false };
  const named = (table: readonly [RegExp, string][]) => table.find(([pattern]) => pattern.test(user_agent))?.[1];
  const [browser, system] = [named(BROWSERS), named(SYSTEMS)];
  const phone = system === "Android" || system === "iOS";
  if (browser === undefined) return { name: user_agent.slice(0, 60), phone };
  return { name: system === undefined ? browser : t("{browser} on {system}", { browser, system }), phone };
}

export function ChangePassword() {
  const client = useClient();
  const [present, setPresent] = useState("");
  const [wanted, setWanted] = useState("");
  const [done, setDone] = useState(false);
  const { busy, error, code, run } = useWork();
  const isWrong = code === "forbidden";
  const change = () =>
    run(async () => {
      setDone(false);
      await client.ask("change_password", { password: present, new_password: wanted });
      setDone(true);
      setPresent("");
      setWanted("");
    });
  return (
    <Form onSubmit={change}>
      <h3>{t("Change password")}</h3>
      <p className="muted">{t("Your other devices will be signed out.")}</p>
      <input className="hidden" autoComplete="username" value={client.me} readOnly tabIndex={-1} aria-hidden="true" />
      <Field
        label={t("Current password")}
        type="password"
        autoComplete="current-password"
        error={isWrong ? t("This is not your current password.") : null}
        value={present}
        onChange={(event) => setPresent(event.target.value)}
      />
      <Field
        label={t("New password")}
        type="password"
        autoComplete="new-password"
        hint={t("At least 8 characters")}
        error={isWrong ? null : error}
        value={wanted}
        onChange={(event) => setWanted(event.target.value)}
      />
      <p role="status">{done ? t("Your password was changed, and your other devices were signed out.") : ""}</p>
      <footer>
        <button type="submit" className="button primary" disabled={busy || present === "" || wanted === ""}>
          {t("Change password")}
        </button>
      </footer>
    </Form>
  );
}

export function Blocked() {
  const client = useClient();
  const blocked = useView((view) => view.blocked);
  const load = useCallback(() => client.blocks.load(), [client]);
  const { failed } = useAnswer(load);
  const [name, setName] = useState("");
  const { busy, error, run } = useWork();
  const unblock = (username: string) => run(() => client.blocks.unblock(username));
  const block = () =>
    run(async () => {
      await client.blocks.block(name.trim());
      setName("");
    });
  return (
    <section>
      <h3>{t("Blocked people")}</h3>
      <p className="muted">
        {t("They cannot send you direct messages or invite you, and do not see whether you are online.")}
      </p>
      <Problem text={failed} />
      {blocked?.size === 0 && <p>{t("You have not blocked anyone.")}</p>}
      <ul className="devices">
        {[...(blocked ?? [])].map((username) => (
          <li key={username}>
            <Avatar name={username} small />
            <strong className="grow ellipsis">{username}</strong>
            <button
              type="button"
              className="button"
              aria-label={t("Unblock {username}", { username })}
              disabled={busy}
              onClick={() => unblock(username)}
            >
              {t("Unblock")}
            </button>
          </li>
        ))}
      </ul>
      <Form className="with-button" onSubmit={block}>
        <Field
          label={t("Block a person")}
          verbatim
          error={error}
          value={name}
          onChange={(event) => setName(event.target.value)}
        />
        <button type="submit" className="button" disabled={busy || name.trim() === ""}>
          {t("Block")}
        </button>
      </Form>
    </section>
  );
}

/** For administrators: the way to their page. */
export function Administer() {
  const client = useClient();
  const [may, setMay] = useState(false);
  useEffect(() => {
    // Without an answer, it is not offered.
    client.isAdmin().then(setMay, () => undefined);
  }, [client]);
  if (!may) return null;
  return (
    <section>
      <h3>{t("Administration")}</h3>
      <p className="muted">{t("You are an administrator of this server.")}</p>
      <a href="admin">{t("Administer this server")}</a>
    </section>
  );
}

/** For administrators, while registration is by invitation. */
export function InviteNewcomers() {
  const client = useClient();
  const [may, setMay] = useState(false);
  const [link, setLink] = useState<string | null>(null);
  const { busy, error, run } = useWork();
  useEffect(() => {
    // Without an answer, it is not offered.
    client.mayInviteNewcomers().then(setMay, () => undefined);
  }, [client]);
  if (!may) return null;
  const make = () => run(async () => setLink(addressWith("invitation", await client.newRegistrationLink())));
  return (
    <section>
      <h3>{t("Invite someone to this server")}</h3>
      <p className="muted">{t("With the link, one person can create an account within 7 days.")}</p>
      <Problem text={error} />
      {link === null ? (
        <button type="button" className="button" disabled={busy} onClick={() => void make()}>
          {t("Create a link")}
        </button>
      ) : (
        <CopyField label={t("Link")} value={link} />
      )}
    </section>
  );
}

export function Deactivate({ onSignOut }: { onSignOut: () => void }) {
  const client = useClient();
  const work = (password: string) => client.ask("deactivate", { password });
  return (
    <End
      title={t("Deactivate account")}
      opens={t("Deactivate…")}
      does={t("Deactivate my account")}
      work={work}
      onDone={onSignOut}
    >
      {t("No one, including you, can sign in until an administrator enables the account again. Your messages stay.")}
    </End>
  );
}

export function DeleteAccount({ onSignOut }: { onSignOut: () => void }) {
  const client = useClient();
  const id = useId();
  const [messages, setMessages] = useState<"keep" | "delete">("keep");
  const work = (password: string) => client.ask("delete_account", { password, messages });
  const choices = (
    <fieldset>
      <legend>{t("What you wrote")}</legend>
      {(["keep", "delete"] as const).map((choice) => (
        <label key={choice} className="check">
          <input type="radio" name={id} checked={messages === choice} onChange={() => setMessages(choice)} />
          {choice === "keep" ? t("Stays, under the name of a deleted user") : t("Is deleted, too")}
        </label>
      ))}
    </fieldset>
  );
  return (
    <End
      title={t("Delete account")}
      opens={t("Delete…")}
      does={t("Delete my account for ever")}
      asks={choices}
      work={work}
      onDone={onSignOut}
    >
      {t("Your account and everything personal are deleted for ever. Nobody can bring them back.")}
    </End>
  );
}

/** Ends the account, after the password. */
function End({
  title,
  opens,
  does,
  asks = null,
  work,
  onDone,
  children,
}: {
  title: string;
  opens: string;
  does: string;
  /** Further questions */
  asks?: ReactNode;
  work: (password: string) => Promise<unknown>;
  onDone: () => void;
  children: ReactNode;
}) {
  const [asked, setAsked] = useState(false);
  const [password, setPassword] = useState("");
  const { busy, error, run } = useWork();
  const end = async () => {
    if (await run(() => work(password))) onDone();
  };
  return (
    <Form onSubmit={() => void end()}>
      <h3>{title}</h3>
      <p className="muted">{children}</p>
      {!asked ? (
        <div>
          <button type="button" className="button danger" onClick={() => setAsked(true)}>
            {opens}
          </button>
        </div>
      ) : (
        <>
          {asks}
          <Field
            label={t("Your password")}
            type="password"
            autoComplete="current-password"
            autoFocus
            error={error}
            value={password}
            onChange={(event) => setPassword(event.target.value)}
          />
          <footer>
            <button type="button" className="button" onClick={() => setAsked(false)}>
              {t("Cancel")}
            </button>
            <button type="submit" className="button danger" disabled={busy || password === ""}>
              {does}
            </button>
          </footer>
        </>
      )}
    </Form>
  );
}
