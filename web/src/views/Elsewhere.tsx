/** The rest of the quick switcher: what a filter finds besides the user's rooms. */
import { Hash } from "lucide-react";
import {
  type KeyboardEvent,
  type ReactNode,
  type RefObject,
  useEffect,
  useLayoutEffect,
  useMemo,
  useState,
} from "react";
import type { Client } from "../client.ts";
import { useClient, useView } from "../context.ts";
import type { Room } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { open } from "../location.ts";
import { knownUsers, matchingUsers } from "./knownUsers.ts";
import { PersonFace } from "./PeopleField.tsx";
import { type Found, findUsers, knownUser, merged, useDirectory } from "./people.ts";

const SHOWN = 5;

/** A topic that the user may join, or a user to write to. */
export interface Other {
  readonly key: string;
  readonly name: string;
  /** null: it is a topic. */
  readonly person: Found | null;
  readonly choose: () => Promise<void>;
}

/** The others for a filter; `best` is null until the server has answered, or if there are none. */
export interface Others {
  readonly filter: string;
  readonly isWhole: boolean;
  readonly best: Other | null;
}

/** What Enter takes for a filter: a known user at once, otherwise what the server finds. Raises a `TidingsError`. */
export async function best(client: Client, filter: string): Promise<Other | null> {
  const name = filter.trim();
  const [known] = matchingUsers(knownPeople(client), name, talks(client.state.rooms), 1);
  if (known !== undefined) return toPerson(client, known);
  const [topics, users] = await Promise.all([topicsToJoin(client), findUsers(client, name)]);
  return bestOf([...topicsFor(client, topics, name), ...users.map((user) => toPerson(client, user))], name);
}

function bestOf(others: readonly Other[], name: string): Other | null {
  const sought = name.toLocaleLowerCase();
  return others.find((other) => other.name.toLocaleLowerCase() === sought) ?? others[0] ?? null;
}

async function topicsToJoin(client: Client): Promise<readonly Room[]> {
  const all: Room[] = [];
  for await (const page of client.load.topics(false)) all.push(...page);
  return all;
}

function topicsFor(client: Client, topics: readonly Room[], name: string): Other[] {
  const words = name.toLocaleLowerCase();
  return topics
    .filter(({ room_id, topic_name }) => !client.room(room_id) && topic_name?.toLocaleLowerCase().includes(words))
    .slice(0, SHOWN)
    .map(({ room_id, topic_name }) => ({
      key: room_id,
      name: topic_name ?? "",
      person: null,
      choose: async () => open((await client.ask("subscribe", { topic_name: topic_name ?? "" })).room_id),
    }));
}

function toPerson(client: Client, person: Found): Other {
  const { username } = person;
  return {
    key: `@${username}`,
    name: username,
    person,
    choose: async () => open((await client.ask("create_conversation", { usernames: [username] })).room_id),
  };
}

const knownPeople = ({ state }: Client) => knownUsers(state).map((one) => knownUser(state, one));

/** With whom the user has a conversation: it is among the rooms. */
function talks(rooms: Client["state"]["rooms"]): Set<string> {
  const names = new Set<string>();
  for (const { room } of rooms.values()) if (room.kind === "direct" && room.title !== null) names.add(room.title);
  return names;
}

export function Elsewhere({
  filter,
  found,
  onChoose,
  onLeave,
}: {
  filter: string;
  /** Holds what is shown */
  found: RefObject<Others | null>;
  onChoose: (other: Other) => void;
  /** The focus moves up, out of the list. */
  onLeave: () => void;
}) {
  const client = useClient();
  const rooms = useView((view) => view.state.rooms);
  const [topics, setTopics] = useState<readonly Room[] | null>(null);
  const name = filter.trim();
  useEffect(() => {
    // Without an answer, only the user's rooms and people are found.
    topicsToJoin(client).then(setTopics, () => setTopics([]));
  }, [client]);
  const answered = useDirectory(name);
  const known = useMemo(() => knownPeople(client), [client]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: a topic that is joined is among the rooms
  const joinable = useMemo(() => topicsFor(client, topics ?? [], name), [client, topics, name, rooms]);
  const people = useMemo(() => {
    // A conversation that the list shows by its name is not offered again.
    const listed = new Set(
      [...talks(rooms)].filter((one) => one.toLocaleLowerCase().includes(name.toLocaleLowerCase())),
    );
    const users = answered.query === name ? answered.users : [];
    return merged(known, users, name, listed, SHOWN).map((user) => toPerson(client, user));
  }, [client, known, answered, name, rooms]);
  useLayoutEffect(() => {
    const isWhole = topics !== null && answered.query === name;
    found.current = { filter, isWhole, best: bestOf([...joinable, ...people], name) };
  });
  const moved = (event: KeyboardEvent<HTMLElement>) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const buttons = [...event.currentTarget.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement as HTMLButtonElement) + by;
    if (at < 0) onLeave();
    else buttons[at]?.focus();
  };
  const row = (other: Other, label: string, face: ReactNode) => (
    <button key={other.key} type="button" className="menu-item" aria-label={label} onClick={() => onChoose(other)}>
      {face}
    </button>
  );
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: the arrows go between the buttons in it
    <div className="elsewhere" onKeyDown={moved}>
      {joinable.length > 0 && (
        <section aria-label={t("Topics to join")}>
          <h2>{t("Topics to join")}</h2>
          {joinable.map((other) =>
            row(
              other,
              t("Join {name}", { name: other.name }),
              <>
                <Hash size={18} />
                <bdi className="ellipsis">{other.name}</bdi>
              </>,
            ),
          )}
        </section>
      )}
      {people.length > 0 && (
        <section aria-label={t("People")}>
          <h2>{t("People")}</h2>
          {people.map((other) =>
            row(
              other,
              t("Message {name}", { name: other.name }),
              other.person !== null && <PersonFace person={other.person} />,
            ),
          )}
        </section>
      )}
    </div>
  );
}
