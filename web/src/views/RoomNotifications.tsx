import { useId, useState } from "react";
import { useClient } from "../context.ts";
import type { Notify, Room } from "../contract.gen.ts";
import { m, t } from "../i18n.ts";
import { isAhead, momentOf } from "../text.ts";
import { Confirm } from "./Confirm.tsx";

const CHOICES: readonly { readonly notify: Notify; readonly text: string }[] = [
  { notify: "all", text: m("All messages") },
  { notify: "mentions", text: m("Only mentions of me") },
  { notify: "nothing", text: m("Nothing; it does not count as unread") },
];

const HOUR = 3600;
const PAUSES: readonly { readonly text: string; readonly seconds: number }[] = [
  { text: m("Pause for 1 hour"), seconds: HOUR },
  { text: m("Pause for 8 hours"), seconds: 8 * HOUR },
  { text: m("Pause for 1 week"), seconds: 7 * 24 * HOUR },
];

/** What a room notifies of, on every device of the user. */
export function RoomNotifications({ room, name, onClose }: { room: Room; name: string; onClose: () => void }) {
  const client = useClient();
  const id = useId();
  const paused = isAhead(room.preferences?.quiet_until ?? null) ? (room.preferences?.quiet_until ?? null) : null;
  const [notify, setNotify] = useState<Notify>(room.preferences?.notify ?? "all");
  /** Seconds; null: not paused; undefined: as it is */
  const [quiet_for, setQuiet] = useState<number | null | undefined>(paused === null ? null : undefined);
  const save = () =>
    client.ask("set_preferences", {
      room_id: room.room_id,
      notify,
      ...(quiet_for === undefined ? {} : { quiet_for }),
    });
  const pause = (text: string, value: number | null | undefined) => (
    <label key={text} className="check">
      <input type="radio" name={`${id}-quiet`} checked={quiet_for === value} onChange={() => setQuiet(value)} />
      {text}
    </label>
  );
  return (
    <Confirm title={t("Notifications of {name}", { name })} does={t("Save")} work={save} onClose={onClose}>
      <fieldset className="choices">
        <legend>{t("Notify me of")}</legend>
        {CHOICES.map((choice) => (
          <label key={choice.notify} className="check">
            <input
              type="radio"
              name={id}
              checked={notify === choice.notify}
              onChange={() => setNotify(choice.notify)}
            />
            {t(choice.text)}
          </label>
        ))}
      </fieldset>
      <fieldset className="choices">
        <legend>{t("For a while")}</legend>
        {pause(t("Not paused"), null)}
        {paused !== null && pause(t("Paused until {time}", { time: momentOf(paused) }), undefined)}
        {PAUSES.map(({ text, seconds }) => pause(t(text), seconds))}
      </fieldset>
    </Confirm>
  );
}
