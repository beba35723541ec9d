import { X } from "lucide-react";
import { useMemo, useState } from "react";
import { useClient } from "../context.ts";
import { open } from "../location.ts";
import type { State } from "../store.ts";
import { tailOf } from "../timeline.ts";
import { Avatar, Dialog, Field, Form, useWork } from "./ui.tsx";

const SUGGESTED = 6;
const LOOKED_AT = 50;

/** With one other, or with several: a group, which may have a title. */
export function NewConversation({ onClose }: { onClose: () => void }) {
  const client = useClient();
  const [people, setPeople] = useState<readonly string[]>([]);
  const [name, setName] = useState("");
  const [title, setTitle] = useState("");
  const { busy, error, run, clear } = useWork();
  const known = useMemo(() => peopleKnown(client.state), [client]);
  const written = name.trim();
  const suggested = known
    .filter((one) => one.toLocaleLowerCase().includes(written.toLocaleLowerCase()) && !people.includes(one))
    .slice(0, SUGGESTED);
  const all = written === "" || people.includes(written) ? people : [...people, written];
  const isGroup = all.length > 1;
  const add = (username: string) => {
    clear();
    setPeople((before) => (before.includes(username) ? before : [...before, username]));
  };
  const addWritten = () =>
    run(async () => {
      const { username } = await client.ask("get_profile", { username: written });
      add(username);
      // The next one may have been begun meanwhile.
      setName((now) => (now.trim() === written ? "" : now));
    });
  const addSuggested = (username: string) => {
    add(username);
    setName("");
  };
  const start = () =>
    run(async () => {
      const group = isGroup && title.trim() !== "" ? { title: title.trim() } : {};
      const room = await client.ask("create_conversation", { usernames: [...all], ...group });
      open(room.room_id);
      onClose();
    });
  return (
    <Dialog title="New conversation" onClose={onClose}>
      <Form onSubmit={start}>
        {people.length > 0 && (
          <ul className="chips" aria-label="With">
            {people.map((person) => (
              <li key={person} className="chip">
                <Avatar name={person} small />
                <span className="ellipsis">{person}</span>
                <button
                  type="button"
                  aria-label={`Take out ${person}`}
                  onClick={() => setPeople(people.filter((one) => one !== person))}
                >
                  <X size={16} />
                </button>
              </li>
            ))}
          </ul>
        )}
        <div className="with-button">
          <Field
            label="Username"
            data-autofocus
            verbatim
            error={error}
            value={name}
            onChange={(event) => setName(event.target.value)}
          />
          <button
            type="button"
            className="button"
            disabled={busy || written === "" || people.includes(written)}
            onClick={addWritten}
          >
            Add
          </button>
        </div>
        {suggested.length > 0 && (
          <fieldset className="suggested">
            <legend className="muted small">People you know</legend>
            {suggested.map((person) => (
              <button key={person} type="button" className="chip" onClick={() => addSuggested(person)}>
                <Avatar name={person} small />
                <span className="ellipsis">{person}</span>
              </button>
            ))}
          </fieldset>
        )}
        {isGroup ? (
          <Field
            label="Title of the group"
            placeholder="May stay empty"
            autoComplete="off"
            value={title}
            onChange={(event) => setTitle(event.target.value)}
          />
        ) : (
          <p className="muted small">Add more than one person for a group.</p>
        )}
        <footer>
          <button type="button" className="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" className="button primary" disabled={busy || all.length === 0}>
            Start
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}

/** Whom one has heard lately, or talks to. */
function peopleKnown({ me, rooms }: State): string[] {
  const people = new Set<string>();
  const latest = [...rooms.values()].sort((one, other) =>
    (other.room.last_message?.created_at ?? "") < (one.room.last_message?.created_at ?? "") ? -1 : 1,
  );
  for (const { room, segments } of latest) {
    if (room.kind === "direct" && room.title !== null) people.add(room.title);
    for (const { sender } of tailOf(segments).messages.slice(-LOOKED_AT)) people.add(sender);
  }
  people.delete(me);
  return [...people];
}
