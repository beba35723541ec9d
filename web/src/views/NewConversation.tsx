import { TidingsError } from "@tidings/client";
import { X } from "lucide-react";
import { useMemo, useState } from "react";
import { useClient } from "../context.ts";
import { t } from "../i18n.ts";
import { open } from "../location.ts";
import { Avatar } from "./Avatar.tsx";
import { Field, Form, useWork } from "./form.tsx";
import { PeopleField } from "./PeopleField.tsx";
import { Dialog } from "./ui.tsx";

/** Starts a conversation with one user, or a group, which may have a name. */
export function NewConversation({ onClose }: { onClose: () => void }) {
  const client = useClient();
  const [people, setPeople] = useState<readonly string[]>([]);
  const [name, setName] = useState("");
  const [title, setTitle] = useState("");
  const { busy, error, run, clear } = useWork();
  const written = name.trim();
  const without = useMemo(() => new Set([...people, client.me]), [people, client]);
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
  /** Add the user with exactly this name, or else the only one who is offered. */
  const addWritten = (only: string | null = null) =>
    run(async () => {
      const meant = (error: unknown) => {
        if (!(error instanceof TidingsError) || error.code !== "not_found") throw error;
        if (only === null) throw error;
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
    <Dialog title={t("New conversation")} onClose={onClose}>
      <Form onSubmit={start}>
        {people.length > 0 && (
          <ul className="chips" aria-label={t("With")}>
            {people.map((person) => (
              <li key={person} className="chip">
                <Avatar name={person} small />
                <span className="ellipsis">{person}</span>
                <button
                  type="button"
                  aria-label={t("Remove {person}", { person })}
                  onClick={() => setPeople(people.filter((one) => one !== person))}
                >
                  <X size={16} />
                </button>
              </li>
            ))}
          </ul>
        )}
        <div className="with-button">
          <PeopleField
            value={name}
            without={without}
            error={error}
            onChange={setName}
            onChoose={addSuggested}
            // Enter adds the typed name, and the field is free for another.
            onEnter={(only) => void addWritten(only)}
          />
          <button
            type="button"
            className="button"
            disabled={busy || written === "" || people.includes(written)}
            onClick={() => void addWritten()}
          >
            {t("Add")}
          </button>
        </div>
        {isGroup ? (
          <Field
            label={t("Group name (optional)")}
            autoComplete="off"
            value={title}
            onChange={(event) => setTitle(event.target.value)}
          />
        ) : (
          <p className="muted small">{t("Add more people to make it a group.")}</p>
        )}
        <footer>
          <button type="button" className="button" onClick={onClose}>
            {t("Cancel")}
          </button>
          <button type="submit" className="button primary" disabled={busy || all.length === 0}>
            {t("Start")}
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}
