import "../styles/profile.css";
import { Smile, X } from "lucide-react";
import { useEffect, useId, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { ProfileChanged, SetProfile } from "../contract.gen.ts";
import { m, t } from "../i18n.ts";
import { isAhead, reasonOf, whenOf } from "../text.ts";
import { Avatar } from "./Avatar.tsx";
import { EmojiButton } from "./EmojiPicker.tsx";
import { Field, Form, useWork } from "./form.tsx";
import { PictureField } from "./PictureField.tsx";
import { Dialog, IconButton } from "./ui.tsx";

const HOUR = 3600;

/** Seconds from now to an hour of a day, by the clock of the user. */
function secondsTo(days: number, hour: number): number {
  const now = new Date();
  const then = new Date(now.getFullYear(), now.getMonth(), now.getDate() + days, hour);
  return Math.max(1, Math.round((then.getTime() - now.getTime()) / 1000));
}

interface Time {
  readonly text: string;
  readonly seconds: () => number | null;
}

const CLEARED: readonly Time[] = [
  { text: m("Never"), seconds: () => null },
  { text: m("After 30 minutes"), seconds: () => HOUR / 2 },
  { text: m("After 1 hour"), seconds: () => HOUR },
  { text: m("After 4 hours"), seconds: () => 4 * HOUR },
  { text: m("At the end of today"), seconds: () => secondsTo(1, 0) },
];

const QUIET: readonly Time[] = [
  { text: m("Off"), seconds: () => null },
  { text: m("For 30 minutes"), seconds: () => HOUR / 2 },
  { text: m("For 1 hour"), seconds: () => HOUR },
  { text: m("Until tomorrow, 8:00"), seconds: () => secondsTo(1, 8) },
];

/** The times, and first the one that is set already, if it lies ahead. */
function timesWith(until: string | null, times: readonly Time[]): readonly Time[] {
  if (until === null || !isAhead(until)) return times;
  const left = () => Math.max(1, Math.round((new Date(until).getTime() - Date.now()) / 1000));
  return [{ text: t("Until {time}", { time: whenOf(until) }), seconds: left }, ...times];
}

/** The user's display name, status and do-not-disturb. */
export function MyProfile({ onClose }: { onClose: () => void }) {
  const client = useClient();
  const profile = useView((view) => view.state.profiles.get(client.me));
  const [failed, setFailed] = useState<string | null>(null);
  useEffect(() => {
    client.load.profile(client.me).catch((error: unknown) => setFailed(reasonOf(error)));
  }, [client]);
  return (
    <Dialog title={t("Your profile")} onClose={onClose}>
      {profile === undefined ? (
        <p role="status">{failed ?? t("Loading…")}</p>
      ) : (
        <>
          <PictureField
            shown={<Avatar name={client.me} />}
            has={profile.picture !== null}
            save={async (picture) => {
              await client.ask("set_profile", { picture });
              await client.load.profile(client.me);
            }}
          />
          <Fields profile={profile} onClose={onClose} />
        </>
      )}
    </Dialog>
  );
}

function Fields({ profile, onClose }: { profile: ProfileChanged; onClose: () => void }) {
  const client = useClient();
  const { busy, error, field, run } = useWork();
  const [was] = useState(profile);
  const status = was.status !== null && (was.status.until === null || isAhead(was.status.until)) ? was.status : null;
  const clearing = timesWith(status?.until ?? null, CLEARED);
  const quieting = timesWith(was.do_not_disturb_until, QUIET);
  const [name, setName] = useState(was.display_name ?? "");
  const [emoji, setEmoji] = useState(status?.emoji ?? null);
  const [text, setText] = useState(status?.text ?? "");
  const [clear, setClear] = useState(0);
  const [quiet, setQuiet] = useState(0);
  const save = async () => {
    const changes: SetProfile = {};
    if (name.trim() !== (was.display_name ?? "")) changes.display_name = name.trim() === "" ? null : name.trim();
    // What is as it was keeps its end to the second.
    if (emoji !== (status?.emoji ?? null) || text.trim() !== (status?.text ?? "") || clear !== 0) {
      const expires_in = clearing[clear]?.seconds() ?? null;
      changes.status = text.trim() === "" && emoji === null ? null : { text: text.trim(), emoji, expires_in };
    }
    if (quiet !== 0) changes.do_not_disturb = quieting[quiet]?.seconds() ?? null;
    const ask = async () => {
      await client.ask("set_profile", changes);
      await client.load.profile(client.me);
    };
    if (await run(ask)) onClose();
  };
  return (
    <Form onSubmit={() => void save()}>
      <Field
        label={t("Display name")}
        hint={t("Others see it instead of your username, {me}.", { me: client.me })}
        data-autofocus
        autoComplete="off"
        maxLength={64}
        error={field === "display_name" ? error : null}
        value={name}
        onChange={(event) => setName(event.target.value)}
      />
      <div className="status-field">
        <EmojiButton
          label={t("Emoji of your status")}
          placement="top-start"
          icon={emoji ?? <Smile size={20} />}
          onChoose={setEmoji}
        />
        <Field
          label={t("Status")}
          autoComplete="off"
          maxLength={100}
          placeholder={t("What are you up to?")}
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
        {(emoji !== null || text !== "") && (
          <IconButton
            label={t("Clear the status")}
            onClick={() => {
              setEmoji(null);
              setText("");
            }}
          >
            <X size={18} />
          </IconButton>
        )}
      </div>
      <Choice label={t("Clear the status")} times={clearing} value={clear} onChange={setClear} />
      <Choice
        label={t("Do not disturb")}
        hint={t("Nothing notifies you meanwhile, and others see a moon beside your name.")}
        times={quieting}
        value={quiet}
        onChange={setQuiet}
      />
      {error !== null && field !== "display_name" && (
        <p role="alert" className="error">
          {error}
        </p>
      )}
      <footer>
        <button type="button" className="button" onClick={onClose}>
          {t("Cancel")}
        </button>
        <button type="submit" className="button primary" disabled={busy}>
          {t("Save")}
        </button>
      </footer>
    </Form>
  );
}

function Choice({
  label,
  hint,
  times,
  value,
  onChange,
}: {
  label: string;
  hint?: string;
  times: readonly Time[];
  value: number;
  onChange: (value: number) => void;
}) {
  const id = useId();
  return (
    <div className="field">
      <label className="label" htmlFor={id}>
        {label}
      </label>
      <select id={id} className="input" value={value} onChange={(event) => onChange(Number(event.target.value))}>
        {times.map(({ text }, index) => (
          <option key={text} value={index}>
            {t(text)}
          </option>
        ))}
      </select>
      {hint !== undefined && <span className="muted small">{hint}</span>}
    </div>
  );
}
