import { useId, useState } from "react";
import type { Client } from "../client.ts";
import { useClient } from "../context.ts";
import type { Room } from "../contract.gen.ts";
import { nameOf } from "../text.ts";
import { Confirm } from "./Confirm.tsx";
import type { Act, Task } from "./MemberMenu.tsx";

interface Duration {
  readonly text: string;
  /** null: for ever */
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
    says: (username) => `${username} stays and reads, but cannot write, edit or react. Leaving does not end it.`,
    durations: DURATIONS,
    ask: (client, about, seconds) => client.ask("mute", { ...about, duration: seconds ?? HOUR }),
  },
  unmute: {
    title: (username) => `Unmute ${username}?`,
    does: "Unmute",
    danger: false,
    says: (username) => `If ${username} was muted, they can write again at once.`,
    ask: (client, about) => client.ask("mute", { ...about, duration: 0 }),
  },
  kick: {
    title: (username) => `Kick ${username}?`,
    does: "Kick",
    danger: true,
    says: (username, { kind, is_private }) =>
      kind === "topic" && !is_private
        ? `${username} is removed, and may come back at any time.`
        : `${username} is removed, and may come back when somebody invites them.`,
    ask: (client, about) => client.ask("kick", about),
  },
  ban: {
    title: (username) => `Ban ${username}?`,
    does: "Ban",
    danger: true,
    says: (username) => `${username} is removed, and cannot come back by whichever way until the ban is over.`,
    durations: [...DURATIONS, { text: "For ever", seconds: null }],
    ask: (client, about, seconds) => client.ask("ban", { ...about, duration: seconds }),
  },
  promote: {
    title: (username) => `Make ${username} a moderator?`,
    does: "Make a moderator",
    danger: false,
    says: (username) => `${username} can then delete what others wrote, and mute, kick and ban members.`,
    ask: (client, about) => client.ask("set_role", { ...about, role: "moderator" }),
  },
  demote: {
    title: (username) => `Make ${username} an ordinary member?`,
    does: "Make an ordinary member",
    danger: false,
    says: (username) => `${username} no longer keeps order here.`,
    ask: (client, about) => client.ask("set_role", { ...about, role: "member" }),
  },
  hand_over: {
    title: (username) => `Hand the room over to ${username}?`,
    does: "Hand over",
    danger: true,
    says: (username, room) =>
      `${username} will own ${nameOf(room)}, and you will be a moderator. Only ${username} can give it back.`,
    ask: (client, about) => client.ask("set_role", { ...about, role: "owner" }),
  },
};

/** Asks a moderator before something is done about a member, and for how long. */
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
          <legend>For how long</legend>
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
