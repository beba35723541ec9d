import { Hash, MessageCircle } from "lucide-react";
import { useEffect, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { Room } from "../contract.gen.ts";
import { open } from "../location.ts";

const TYPED_AFTER = 200;
const SHOWN = 5;

/** A topic that the user may join, or a user to write to. */
interface Other {
  readonly key: string;
  readonly topic: boolean;
  readonly name: string;
  readonly choose: () => Promise<void>;
}

/** What a filter finds besides the user's rooms: public topics, and the user with exactly this name. */
export function useElsewhere(filter: string): readonly Other[] {
  const client = useClient();
  const rooms = useView((view) => view.state.rooms);
  const [topics, setTopics] = useState<readonly Room[]>([]);
  const [person, setPerson] = useState("");
  const name = filter.trim();
  const words = name.toLocaleLowerCase();
  const asking = words !== "";
  useEffect(() => {
    if (!asking) return;
    const load = async () => {
      const all: Room[] = [];
      for await (const page of client.load.topics(false)) all.push(...page);
      setTopics(all);
    };
    load().catch(() => undefined); // without an answer, only the user's rooms are found
  }, [client, asking]);
  useEffect(() => {
    if (name === "") return;
    const ask = () =>
      client.ask("get_profile", { username: name }).then(
        ({ username }) => setPerson(username),
        () => undefined,
      );
    const timer = setTimeout(ask, TYPED_AFTER);
    return () => clearTimeout(timer);
  }, [client, name]);
  if (!asking) return [];
  const others: Other[] = topics
    .filter(({ room_id, topic_name }) => !rooms.has(room_id) && topic_name?.toLocaleLowerCase().includes(words))
    .slice(0, SHOWN)
    .map(({ room_id, topic_name }) => ({
      key: room_id,
      topic: true,
      name: topic_name ?? "",
      choose: async () => open(room_id),
    }));
  const talks = [...rooms.values()].some(({ room }) => room.kind === "direct" && room.title === person);
  if (person.toLocaleLowerCase() === words && person !== client.me && !talks)
    others.unshift({
      key: `@${person}`,
      topic: false,
      name: person,
      choose: async () => open((await client.ask("create_conversation", { usernames: [person] })).room_id),
    });
  return others;
}

export function Elsewhere({ others, onChoose }: { others: readonly Other[]; onChoose: (other: Other) => void }) {
  if (others.length === 0) return null;
  return (
    <section aria-label="Not in your list">
      {others.map((other) => (
        <button key={other.key} type="button" className="menu-item" onClick={() => onChoose(other)}>
          {other.topic ? <Hash size={18} /> : <MessageCircle size={18} />}
          <span className="ellipsis">
            {other.topic ? "Open" : "Message"} <bdi>{other.name}</bdi>
          </span>
        </button>
      ))}
    </section>
  );
}
