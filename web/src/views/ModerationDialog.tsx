import { useId, useState } from "react";
import type { Client } from "../client.ts";
import { useClient } from "../context.ts";
import type { Room } from "../contract.gen.ts";
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
  { text: "10 minutes", seconds: 600 },
  { text: "1 hour", seconds: HOUR },
  { text: "1 day", seconds: 24 * HOUR },
  { text: "1 week", seconds: 7 * 24 * HOUR },
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
    title: (username) => `Mute ${username}?`,
    does: "Mute",
    danger: true,
    says: (username) =>
      `${username} can still read, but cannot send, edit or react. Leaving and joining again does not end the mute.`,
    durations: DURATIONS,
    ask: (client, about, seconds) => client.ask("mute", { ...about, duration: seconds ?? HOUR }),
  },
  unmute: {
    title: (username) => `Unmute ${username}?`,
    does: "Unmute",
    danger: false,
    says: (username) => `${username} can write again right away.`,
    ask: (client, about) => client.ask("mute", { ...about, duration: 0 }),
  },
  kick: {
    title: (username) => `Kick ${username}?`,
    does: "Kick",
    danger: true,
    says: (username, { kind, is_private }) =>
      kind === "topic" && !is_private
        ? `${username} will be removed, and can join again at any time.`
        : `${username} will be removed, and can come back if somebody invites them.`,
    ask: (client, about) => client.ask("kick", about),
  },
  ban: {
    title: (username) => `Ban ${username}?`,
    does: "Ban",
    danger: true,
    says: (username) => `${username} will be removed, and cannot come back until the ban ends.`,
    durations: [...DURATIONS, { text: "Permanently", seconds: null }],
    ask: (client, about, seconds) => client.ask("ban", { ...about, duration: seconds }),
  },
  promote: {
    title: (username) => `Make ${username} a moderator?`,
    does: "Make moderator",
    danger: false,
    says: (username) => `${username} will be able to delete messages of others, and to mute, kick and ban members.`,
    ask: (client, about) => client.ask("set_role", { ...about, role: "moderator" }),
  },
  demote: {
    title: (username) => `Remove ${username} as moderator?`,
    does: "Remove",
    danger: false,
    says: (username) => `${username} stays a member, but can no longer moderate this room.`,
    ask: (client, about) => client.ask("set_role", { ...about, role: "member" }),
  },
  hand_over: {
    title: (username) => `Transfer ownership to ${username}?`,
    does: "Transfer",
    danger: true,
    says: (username, room) =>
      `${username} will own ${nameOf(room)}, and you will be a moderator. Only ${username} can transfer it back.`,
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
    <Confirm title={title(username)} does={does} danger={danger} work={work} onClose={onClose}>
      <p>{says(username, room)}</p>
      {durations !== undefined && (
        <fieldset className="choices">
          <legend>Duration</legend>
          {durations.map(({ text }, index) => (
            <label key={text} className="check">
              <input type="radio" name={id} checked={chosen === index} onChange={() => setChosen(index)} />
              {text}
            </label>
          ))}
        </fieldset>
      )}
    </Confirm>
  );
}
