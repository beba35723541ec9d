import { MoreHorizontal } from "lucide-react";
import { useCallback, useDeferredValue, useId, useState } from "react";
import type { AdminUser } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { addressWith } from "../location.ts";
import { Problem, useAnswer } from "../views/answer.tsx";
import { Confirm } from "../views/Confirm.tsx";
import { Field } from "../views/form.tsx";
import { deviceOf, usedOf } from "../views/SettingsAccount.tsx";
import { Dialog, Item, Menu } from "../views/ui.tsx";
import { type Acting, Ago, type Column, Make, type Page, Records, useAsk } from "./parts.tsx";

export function Users() {
  const ask = useAsk();
  const [query, setQuery] = useState("");
  const wanted = useDeferredValue(query.trim());
  const load = useCallback(
    async (page: Page) => {
      const { users, next } = await ask("admin_get_users", { ...page, ...(wanted === "" ? {} : { query: wanted }) });
      return { items: users, next };
    },
    [ask, wanted],
  );
  const columns: readonly Column<AdminUser>[] = [
    { label: t("Name"), cell: (user) => <Name user={user} /> },
    { label: t("State"), cell: (user) => <State user={user} /> },
    { label: t("Created"), cell: ({ created_at }) => <Ago at={created_at} /> },
  ];
  return (
    <>
      <Field
        label={t("Find a user")}
        type="search"
        verbatim
        value={query}
        onChange={(event) => setQuery(event.target.value)}
      />
      <Records
        title={t("Users")}
        load={load}
        keyOf={({ username }) => username}
        columns={columns}
        actions={(user, acting) => <Actions user={user} acting={acting} />}
        none={t("There are no such users.")}
      />
    </>
  );
}

function Name({ user: { username, display_name, admin, service } }: { user: AdminUser }) {
  return (
    <>
      <strong>{username}</strong> {display_name !== null && display_name !== username && <span>{display_name} </span>}
      {admin && <span className="badge">{t("Administrator")}</span>}
      {service && <span className="badge">{t("Key")}</span>}
    </>
  );
}

function State({ user: { disabled, online, last_seen } }: { user: AdminUser }) {
  if (disabled) return <span className="error">{t("Disabled")}</span>;
  if (online) return t("Online");
  return last_seen === null ? <span className="muted">{t("Never seen")}</span> : <Ago at={last_seen} />;
}

function Actions({ user: { username, disabled, service }, acting }: { user: AdminUser; acting: Acting }) {
  const ask = useAsk();
  const enable = () =>
    acting.run(() => ask("admin_enable_user", { username }), t("{name} may sign in again.", { name: username }));
  const disable = (close: () => void) => (
    <Confirm
      title={t("Disable {name}?", { name: username })}
      does={t("Disable")}
      danger
      work={() => ask("admin_disable_user", { username })}
      onClose={close}
    >
      <p>{t("All sessions end, and nobody can sign in until you enable the account again. The messages stay.")}</p>
    </Confirm>
  );
  const signOut = (close: () => void) => (
    <Confirm
      title={t("Sign out {name} everywhere?", { name: username })}
      does={t("Sign out everywhere")}
      danger
      work={() => ask("end_sessions", { username })}
      onClose={close}
    >
      <p>{t("All sessions end on every device. To come back, the user has to sign in.")}</p>
    </Confirm>
  );
  const reset = (close: () => void) => (
    <Make
      title={t("New password for {name}", { name: username })}
      does={t("Create a link")}
      made={t("Link")}
      note={t(
        "Give the link to the user, and to nobody else. It works once, within 24 hours, and is not shown again.",
      )}
      work={async () => addressWith("reset", (await ask("admin_reset_password", { username })).code)}
      onClose={close}
    >
      <p>{t("With the link, the user chooses a new password. Then all their sessions end.")}</p>
    </Make>
  );
  return (
    <Menu label={t("Actions for {name}", { name: username })} icon={<MoreHorizontal size={18} />}>
      <Item onClick={() => acting.open((close) => <SessionsOf username={username} onClose={close} />)}>
        {t("Sessions")}
      </Item>
      <Item onClick={() => acting.open(signOut)}>{t("Sign out everywhere")}</Item>
      {!disabled && !service && <Item onClick={() => acting.open(reset)}>{t("Reset password")}</Item>}
      <hr className="menu-separator" />
      {disabled ? (
        <Item onClick={enable}>{t("Enable")}</Item>
      ) : (
        <Item danger onClick={() => acting.open(disable)}>
          {t("Disable")}
        </Item>
      )}
      {!service && (
        <Item danger onClick={() => acting.open((close) => <Delete username={username} onClose={close} />)}>
          {t("Delete account")}
        </Item>
      )}
    </Menu>
  );
}

function SessionsOf({ username, onClose }: { username: string; onClose: () => void }) {
  const ask = useAsk();
  const { answer, failed } = useAnswer(useCallback(() => ask("admin_get_sessions", { username }), [ask, username]));
  return (
    <Dialog title={t("Sessions of {name}", { name: username })} onClose={onClose}>
      <Problem text={failed} />
      {answer?.sessions.length === 0 && <p className="muted">{t("Nobody is signed in.")}</p>}
      <ul className="devices">
        {answer?.sessions.map((session) => (
          <li key={session.session_id}>
            <span className="grow">
              <strong>{deviceOf(session.user_agent).name}</strong>
              <span className="muted small">
                <Ago at={session.created_at} />, {usedOf(session)}
              </span>
            </span>
          </li>
        ))}
      </ul>
    </Dialog>
  );
}

function Delete({ username, onClose }: { username: string; onClose: () => void }) {
  const ask = useAsk();
  const id = useId();
  const [messages, setMessages] = useState<"keep" | "delete">("keep");
  return (
    <Confirm
      title={t("Delete the account of {name}?", { name: username })}
      does={t("Delete for ever")}
      danger
      work={() => ask("admin_delete_user", { username, messages })}
      onClose={onClose}
    >
      <p>{t("The account and everything personal are deleted for ever. Nobody can bring them back.")}</p>
      <fieldset className="choices">
        <legend>{t("What the user wrote")}</legend>
        {(["keep", "delete"] as const).map((choice) => (
          <label key={choice} className="check">
            <input type="radio" name={id} checked={messages === choice} onChange={() => setMessages(choice)} />
            {choice === "keep" ? t("Stays, under the name of a deleted user") : t("Is deleted, too")}
          </label>
        ))}
      </fieldset>
    </Confirm>
  );
}
