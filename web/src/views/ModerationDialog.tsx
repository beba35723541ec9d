import { useId, useState } from "react";
import type { Client } from "../client.ts";
import { useClient } from "../context.ts";
import type { Room } from "../contract.gen.ts";
import { m, t } from "../i18n.ts";
import { nameOf } from "../text.ts";
import { Confirm } from "./Confirm.tsx";
import type { Act, Task } from "./MemberMenu.tsx";

interface Duration {
  readonly text: string;
  /** null: forever */
  readonly seconds: number | null;
}

const HOUR = 3600;
const DURATIONS: readonly Duration[] = [
  { text: m("10 minutes"), seconds: 600 },
  { text: m("1 hour"), seconds: HOUR },
  { text: m("1 day"), seconds: 24 * HOUR },
  { text: m("1 week"), seconds: 7 * 24 * HOUR },
];

interface Question {
  readonly title: (username: string) => string;
  readonly does: string;
  readonly danger: boolean;
  readonly says: (username: string, room: Room) => string;
  readonly durations?: readonly Duration[];
  readonly ask: (
    client: Client,
    about: { room_id: string; username: string },
    seconds: number | null,
  ) => Promise<unknown>;
}

const QUESTIONS: Record<Task, Question> = {
  mute: {
    title: (username) => t("Mute {username}?", { username }),
    does: m("Mute"),
    danger: true,
    says: (username) =>
      t(
        "{username} can still read, but cannot send, edit or react. Leaving and joining again does not end the mute.",
        { username },
      ),
    durations: DURATIONS,
    ask: (client, about, seconds) => client.ask("mute", { ...about, duration: seconds ?? HOUR }),
  },
  unmute: {
    title: (username) => t("Unmute {username}?", { username }),
    does: m("Unmute"),
    danger: false,
    says: (username) => t("{username} can write again right away.", { username }),
    ask: (client, about) => client.ask("mute", { ...about, duration: 0 }),
  },
  kick: {
    title: (username) => t("Kick {username}?", { username }),
    does: m("Kick"),
    danger: true,
    says: (username, { kind, is_private }) =>
      kind === "topic" && !is_private
        ? t("{username} will be removed, and can join again at any time.", { username })
        : t("{username} will be removed, and can come back if somebody invites them.", { username }),
    ask: (client, about) => client.ask("kick", about),
  },
  ban: {
    title: (username) => t("Ban {username}?", { username }),
    does: m("Ban"),
    danger: true,
    says: (username) => t("{username} will be removed, and cannot come back until the ban ends.", { username }),
    durations: [...DURATIONS, { text: m("Permanently"), seconds: null }],
    ask: (client, about, seconds) => client.ask("ban", { ...about, duration: seconds }),
  },
  promote: {
    title: (username) => t("Make {username} a moderator?", { username }),
    does: m("Make moderator"),
    danger: false,
    says: (username) =>
      t("{username} will be able to delete messages of others, and to mute, kick and ban members.", { username }),
    ask: (client, about) => client.ask("set_role", { ...about, role: "moderator" }),
  },
  demote: {
    title: (username) => t("Remove {username} as moderator?", { username }),
    does: m("Remove"),
    danger: false,
    says: (username) => t("{username} stays a member, but can no longer moderate this room.", { username }),
    ask: (client, about) => client.ask("set_role", { ...about, role: "member" }),
  },
  hand_over: {
    title: (username) => t("Transfer ownership to {username}?", { username }),
    does: m("Transfer"),
    danger: true,
    says: (username, room) =>
      t("{username} will own {room}, and you will be a moderator. Only {username} can transfer it back.", {
        username,
        room: nameOf(room),
      }),
    ask: (client, about) => client.ask("set_role", { ...about, role: "owner" }),
  },
};

/** Asks a moderator to confirm an action on a member, and for its duration. */
export function ModerationDialog({
  act: { task, username },
  room,
  onDone,
  onClose,
}: {
  act: Act;
  room: Room;
  onDone: () => void;
  onClose: () => void;
}) {
  const client = useClient();
  const id = useId();
  const { title, does, danger, says, durations, ask } = QUESTIONS[task];
  const [chosen, setChosen] = useState(1);
  const work = async () => {
    const seconds = durations?.[chosen]?.seconds ?? null;
    await ask(client, { room_id: room.room_id, username }, seconds);
    onDone();
  };
  return (
    <Confirm title={title(username)} does={t(does)} danger={danger} work={work} onClose={onClose}>
      <p>{says(username, room)}</p>
      {durations !== undefined && (
        <fieldset className="choices">
          <legend>{t("Duration")}</legend>
          {durations.map(({ text }, index) => (
            <label key={text} className="check">
              <input type="radio" name={id} checked={chosen === index} onChange={() => setChosen(index)} />
              {t(text)}
            </label>
          ))}
        </fieldset>
      )}
    </Confirm>
  );
}
