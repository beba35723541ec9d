import { useId, useState } from "react";
import { useClient } from "../context.ts";
import type { Notify, Room } from "../contract.gen.ts";
import { isAhead, momentOf } from "../text.ts";
import { Confirm } from "./Confirm.tsx";

const CHOICES: readonly { readonly notify: Notify; readonly text: string }[] = [
  { notify: "all", text: "All messages" },
  { notify: "mentions", text: "Only mentions of me" },
  { notify: "nothing", text: "Nothing; it does not count as unread" },
];

const HOUR = 3600;
const PAUSES: readonly { readonly text: string; readonly seconds: number }[] = [
  { text: "Pause for 1 hour", seconds: HOUR },
  { text: "Pause for 8 hours", seconds: 8 * HOUR },
  { text: "Pause for 1 week", seconds: 7 * 24 * HOUR },
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
    <Confirm title={`Notifications of ${name}`} does="Save" work={save} onClose={onClose}>
      <fieldset className="choices">
        <legend>Notify me of</legend>
        {CHOICES.map((choice) => (
          <label key={choice.notify} className="check">
            <input
              type="radio"
              name={id}
              checked={notify === choice.notify}
              onChange={() => setNotify(choice.notify)}
            />
            {choice.text}
          </label>
        ))}
      </fieldset>
      <fieldset className="choices">
        <legend>For a while</legend>
        {pause("Not paused", null)}
        {paused !== null && pause(`Paused until ${momentOf(paused)}`, undefined)}
        {PAUSES.map(({ text, seconds }) => pause(text, seconds))}
      </fieldset>
    </Confirm>
  );
}
