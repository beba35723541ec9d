/** Other systems: their keys, the webhooks, and the audit log. */
import { type ReactNode, useCallback, useState } from "react";
import type { AdminKey, AdminWebhook, AuditEntry, KeyScope } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { momentOf } from "../text.ts";
import { Confirm } from "../views/Confirm.tsx";
import { Field } from "../views/form.tsx";
import { Ago, type Column, Make, type Page, Records, useAsk, WithNew } from "./parts.tsx";

const SCOPES: readonly KeyScope[] = ["publish", "rooms", "users", "read", "act"];

function scopeOf(scope: KeyScope): string {
  return {
    publish: t("Write messages and events"),
    rooms: t("Manage rooms and their members"),
    users: t("Manage users"),
    read: t("Read everything"),
    act: t("Act as any user"),
  }[scope];
}

export function Keys() {
  return (
    <WithNew
      label={t("Create a key…")}
      list={(key) => <KeyList key={key} />}
      dialog={(close) => <NewKey onClose={close} />}
    />
  );
}

function KeyList() {
  const ask = useAsk();
  const load = useCallback(async () => ({ items: (await ask("admin_get_keys", {})).keys }), [ask]);
  const columns: readonly Column<AdminKey>[] = [
    { label: t("Name"), cell: ({ username }) => <strong>{username}</strong> },
    { label: t("May"), cell: ({ scopes }) => scopes.join(", ") },
    { label: t("Room"), cell: ({ room_id }) => room_id ?? t("any") },
    { label: t("Created"), cell: ({ created_at }) => <Ago at={created_at} /> },
    {
      label: t("Last used"),
      cell: ({ last_used_at, revoked_at }) =>
        revoked_at !== null ? (
          <span className="muted">{t("Revoked")}</span>
        ) : last_used_at === null ? (
          <span className="muted">{t("Never")}</span>
        ) : (
          <Ago at={last_used_at} />
        ),
    },
  ];
  return (
    <Records
      title={t("Keys of other systems")}
      load={load}
      keyOf={({ key_id }) => key_id}
      columns={columns}
      none={t("There are no keys.")}
      actions={({ key_id, username, revoked_at }, { open }) =>
        revoked_at === null && (
          <button
            type="button"
            className="button danger"
            aria-label={t("Revoke the key of {name}", { name: username })}
            onClick={() =>
              open((close) => (
                <Confirm
                  title={t("Revoke the key of {name}?", { name: username })}
                  does={t("Revoke")}
                  danger
                  work={() => ask("admin_revoke_key", { key_id })}
                  onClose={close}
                >
                  <p>{t("The system that uses it is disconnected, and cannot come back with this key.")}</p>
                </Confirm>
              ))
            }
          >
            {t("Revoke")}
          </button>
        )
      }
    />
  );
}

function NewKey({ onClose }: { onClose: () => void }) {
  const ask = useAsk();
  const [username, setUsername] = useState("");
  const [scopes, setScopes] = useState<readonly KeyScope[]>(["publish"]);
  const [room_id, setRoom] = useState("");
  const work = async () => {
    const room = room_id.trim() === "" ? {} : { room_id: room_id.trim() };
    return (await ask("admin_create_key", { username: username.trim(), scopes: [...scopes], ...room })).key;
  };
  return (
    <Make
      title={t("New key")}
      does={t("Create a key")}
      made={t("Key")}
      note={t("Keep the key secret. It is not shown again.")}
      work={work}
      onClose={onClose}
    >
      <Field
        label={t("Name, as others see it")}
        verbatim
        value={username}
        onChange={(event) => setUsername(event.target.value)}
      />
      <fieldset className="choices">
        <legend>{t("What it may do")}</legend>
        {SCOPES.map((scope) => (
          <label key={scope} className="check">
            <input
              type="checkbox"
              checked={scopes.includes(scope)}
              onChange={(event) =>
                setScopes(event.target.checked ? [...scopes, scope] : scopes.filter((chosen) => chosen !== scope))
              }
            />
            {scopeOf(scope)}
          </label>
        ))}
      </fieldset>
      <Field
        label={t("Only in the room with this id")}
        hint={t("Empty: in every room")}
        verbatim
        value={room_id}
        onChange={(event) => setRoom(event.target.value)}
      />
    </Make>
  );
}

export function Webhooks() {
  return (
    <WithNew
      label={t("Create a webhook…")}
      list={(key) => <WebhookList key={key} />}
      dialog={(close) => <NewWebhook onClose={close} />}
    />
  );
}

function WebhookList() {
  const ask = useAsk();
  const load = useCallback(async () => ({ items: (await ask("admin_get_webhooks", {})).webhooks }), [ask]);
  const columns: readonly Column<AdminWebhook>[] = [
    { label: t("Address"), cell: ({ url }) => <strong>{url}</strong> },
    { label: t("Events"), cell: ({ events }) => events.join(", ") },
    { label: t("State"), cell: (webhook) => stateOf(webhook) },
    { label: t("Created"), cell: ({ created_at }) => <Ago at={created_at} /> },
  ];
  return (
    <Records
      title={t("Webhooks")}
      load={load}
      keyOf={({ webhook_id }) => webhook_id}
      columns={columns}
      none={t("There are no webhooks.")}
      actions={({ webhook_id, url, disabled_at, failing_since }, { busy, run, open }) => (
        <>
          <button
            type="button"
            className="button"
            disabled={busy}
            aria-label={t("Test {address}", { address: url })}
            onClick={() =>
              run(async () => {
                const { delivered, reason } = await ask("admin_test_webhook", { webhook_id });
                if (!delivered) throw new Error(reason);
              }, t("The test event was delivered."))
            }
          >
            {t("Test")}
          </button>
          {(disabled_at ?? failing_since) !== null && (
            <button
              type="button"
              className="button"
              disabled={busy}
              aria-label={t("Enable {address}", { address: url })}
              onClick={() => run(() => ask("admin_enable_webhook", { webhook_id }), t("The webhook is enabled."))}
            >
              {t("Enable")}
            </button>
          )}
          <button
            type="button"
            className="button danger"
            aria-label={t("Delete {name}", { name: url })}
            onClick={() =>
              open((close) => (
                <Confirm
                  title={t("Delete the webhook?")}
                  does={t("Delete")}
                  danger
                  work={() => ask("admin_delete_webhook", { webhook_id })}
                  onClose={close}
                >
                  <p>{t("{address} gets no more events.", { address: url })}</p>
                </Confirm>
              ))
            }
          >
            {t("Delete")}
          </button>
        </>
      )}
    />
  );
}

function stateOf({ disabled_at, disabled_reason, failing_since }: AdminWebhook): ReactNode {
  if (disabled_at !== null)
    return <span className="error">{t("Disabled: {reason}", { reason: disabled_reason ?? "" })}</span>;
  return failing_since === null ? t("Works") : t("Failing since {time}", { time: momentOf(failing_since) });
}

function NewWebhook({ onClose }: { onClose: () => void }) {
  const ask = useAsk();
  const [url, setUrl] = useState("https://");
  const [events, setEvents] = useState("message");
  const work = async () => {
    const names = events.split(/[\s,]+/).filter((name) => name !== "");
    return (await ask("admin_create_webhook", { url: url.trim(), events: names })).secret;
  };
  return (
    <Make
      title={t("New webhook")}
      does={t("Create a webhook")}
      made={t("Secret")}
      note={t("The receiver checks the requests with the secret. It is not shown again.")}
      work={work}
      onClose={onClose}
    >
      <Field label={t("Address")} type="url" verbatim value={url} onChange={(event) => setUrl(event.target.value)} />
      <Field
        label={t("Events")}
        hint={t("Names such as message, or * for all")}
        verbatim
        value={events}
        onChange={(event) => setEvents(event.target.value)}
      />
    </Make>
  );
}

export function Audit() {
  const ask = useAsk();
  const load = useCallback(
    async ({ limit, after }: Page) => {
      const { entries, next } = await ask("get_audit", {
        limit,
        ...(after === undefined ? {} : { before: Number(after) }),
      });
      return { items: entries, next };
    },
    [ask],
  );
  const columns: readonly Column<AuditEntry>[] = [
    { label: t("When"), cell: ({ at }) => momentOf(at) },
    { label: t("Who"), cell: ({ key }) => <strong>{key}</strong> },
    { label: t("As"), cell: ({ username }) => username ?? "–" },
    { label: t("Action"), cell: ({ action }) => <code>{action}</code> },
    { label: t("Request"), cell: ({ request }) => <code>{JSON.stringify(request)}</code> },
  ];
  return (
    <Records
      title={t("Audit log")}
      load={load}
      keyOf={({ id }) => id}
      columns={columns}
      none={t("Nothing has been done by administrators and keys yet.")}
    />
  );
}
