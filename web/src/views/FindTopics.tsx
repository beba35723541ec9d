import { useDeferredValue, useEffect, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { Room } from "../contract.gen.ts";
import { m, n, t } from "../i18n.ts";
import { open } from "../location.ts";
import { reasonOf } from "../text.ts";
import { useWork } from "./form.tsx";
import { Sign } from "./Sign.tsx";
import { Dialog } from "./ui.tsx";

const SHOWN = 100;

/** The public topics, the largest first. A member can open the topic from here. */
export function FindTopics({ onClose, onLink }: { onClose: () => void; onLink: () => void }) {
  const client = useClient();
  const { topics, whole, failed } = useTopics();
  const [filter, setFilter] = useState("");
  const words = useDeferredValue(filter.trim().toLocaleLowerCase());
  const found = topics.filter(({ topic_name }) => topic_name?.toLocaleLowerCase().includes(words));
  const { busy, error, run } = useWork();
  const join = (topic_name: string) =>
    run(async () => {
      const room = await client.ask("subscribe", { topic_name });
      open(room.room_id);
      onClose();
    });
  return (
    <Dialog title={t("Find topics")} onClose={onClose}>
      <input
        type="search"
        className="input"
        aria-label={t("Filter topics")}
        placeholder={t("Filter")}
        autoComplete="off"
        data-autofocus
        value={filter}
        onChange={(event) => setFilter(event.target.value)}
      />
      {(failed ?? error) !== null && (
        <p className="error" role="alert">
          {failed ?? error}
        </p>
      )}
      <p className="hidden" role="status">
        {whole ? n("{count} topic", "{count} topics", found.length) : ""}
      </p>
      <ul className="topics">
        {found.slice(0, SHOWN).map((topic) => (
          <Topic key={topic.room_id} topic={topic} busy={busy} onJoin={join} onClose={onClose} />
        ))}
      </ul>
      {found.length > SHOWN && (
        <p className="muted small">{t("{count} more: type to narrow the list.", { count: found.length - SHOWN })}</p>
      )}
      {found.length === 0 && failed === null && (
        <p className="muted">
          {whole ? (words === "" ? t(NONE_YET) : t("No topic has a name like this.")) : t("Loading…")}
        </p>
      )}
      <footer>
        <button type="button" className="button" onClick={onLink}>
          {t("I have an invitation link")}
        </button>
      </footer>
    </Dialog>
  );
}

const NONE_YET = m("There are no public topics yet. Create the first one.");

function Topic({
  topic,
  busy,
  onJoin,
  onClose,
}: {
  topic: Room;
  busy: boolean;
  onJoin: (topic_name: string) => void;
  onClose: () => void;
}) {
  const member = useView((view) => view.state.rooms.has(topic.room_id));
  const name = topic.topic_name ?? "";
  const enter = () => {
    if (!member) return onJoin(name);
    open(topic.room_id);
    onClose();
  };
  return (
    <li>
      <Sign room={topic} name={name} size={18} />
      <span className="grow">
        <strong className="ellipsis">{name}</strong>
        <span className="muted small">
          {n("{count} member", "{count} members", topic.members)}
          {topic.online > 0 && ` · ${t("{online} online", { online: topic.online })}`}
        </span>
        {topic.purpose !== null && (
          <span className="small" dir="auto">
            {topic.purpose}
          </span>
        )}
      </span>
      <button
        type="button"
        className={`button ${member ? "" : "primary"}`}
        aria-label={member ? t("Open {name}", { name }) : t("Join {name}", { name })}
        disabled={busy}
        onClick={enter}
      >
        {member ? t("Open") : t("Join")}
      </button>
    </li>
  );
}

/** Loads all public topics, page by page. */
function useTopics(): { topics: readonly Room[]; whole: boolean; failed: string | null } {
  const client = useClient();
  const [topics, setTopics] = useState<readonly Room[]>([]);
  const [whole, setWhole] = useState(false);
  const [failed, setFailed] = useState<string | null>(null);
  useEffect(() => {
    let over = false;
    const load = async () => {
      const all: Room[] = [];
      for await (const page of client.load.topics()) {
        if (over) return;
        all.push(...page);
        setTopics([...all].sort((one, other) => other.members - one.members));
      }
      setWhole(true);
    };
    load().catch((error: unknown) => over || setFailed(reasonOf(error)));
    return () => {
      over = true;
    };
  }, [client]);
  return { topics, whole, failed };
}
