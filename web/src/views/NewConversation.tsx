import { TidingsError } from "@tidings/client";
import { X } from "lucide-react";
import { useMemo, useState } from "react";
import { useClient } from "../context.ts";
import { open } from "../location.ts";
import { Field, Form, useWork } from "./form.tsx";
import { knownUsers, matchingUsers } from "./knownUsers.ts";
import { SuggestedUsers } from "./SuggestedUsers.tsx";
import { Avatar, Dialog } from "./ui.tsx";

/** Starts a conversation with one user, or a group, which may have a name. */
export function NewConversation({ onClose }: { onClose: () => void }) {
  const client = useClient();
  const [people, setPeople] = useState<readonly string[]>([]);
  const [name, setName] = useState("");
  const [title, setTitle] = useState("");
  const { busy, error, run, clear } = useWork();
  const known = useMemo(() => knownUsers(client.state), [client]);
  const written = name.trim();
  const suggested = matchingUsers(known, written, new Set(people));
  const all = written === "" || people.includes(written) ? people : [...people, written];
  const isGroup = all.length > 1;
  const add = (username: string) => {
    clear();
    setPeople((before) => (before.includes(username) ? before : [...before, username]));
  };
  const addSuggested = (username: string) => {
    add(username);
    setName("");
  };
  /** Add the user with exactly this name, or else the only suggestion. */
  const addWritten = () =>
    run(async () => {
      const [only, second] = suggested;
      const meant = (error: unknown) => {
        if (!(error instanceof TidingsError) || error.code !== "not_found") throw error;
        if (only === undefined || second !== undefined) throw error;
        return { username: only };
      };
      const { username } = await client.ask("get_profile", { username: written }).catch(meant);
      add(username);
      // The user may have typed the next name meanwhile.
      setName((now) => (now.trim() === written ? "" : now));
    });
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
                  aria-label={`Remove ${person}`}
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
            // Enter adds the typed name, and the field is free for another.
            onKeyDown={(event) => {
              if (event.key !== "Enter" || event.nativeEvent.isComposing || written === "") return;
              event.preventDefault();
              void addWritten();
            }}
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
        <SuggestedUsers names={suggested} onChoose={addSuggested} />
        {isGroup ? (
          <Field
            label="Group name (optional)"
            autoComplete="off"
            value={title}
            onChange={(event) => setTitle(event.target.value)}
          />
        ) : (
          <p className="muted small">Add more people to make it a group.</p>
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
