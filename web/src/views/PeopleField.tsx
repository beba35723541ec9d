import { type KeyboardEvent, useId, useState } from "react";
import { t } from "../i18n.ts";
import { isAhead } from "../text.ts";
import { Avatar } from "./Avatar.tsx";
import { Field } from "./form.tsx";
import { type Found, usePeople } from "./people.ts";

/** A field for a username, with the users that it may mean. Arrow keys move in the list; Enter takes what they point at. */
export function PeopleField({
  value,
  without,
  hint,
  error,
  onChange,
  onChoose,
  onEnter,
}: {
  value: string;
  /** The usernames not to offer */
  without: ReadonlySet<string>;
  hint?: string;
  error: string | null;
  onChange: (value: string) => void;
  onChoose: (username: string) => void;
  /** Enter in the field, while nothing is pointed at. `only`: the one user that is offered */
  onEnter: (only: string | null) => void;
}) {
  const id = useId();
  const found = usePeople(value, without);
  /** The user pointed at, for what was typed then */
  const [pointed, setPointed] = useState<{ readonly value: string; readonly username: string } | null>(null);
  const at = pointed?.value === value ? found.findIndex(({ username }) => username === pointed.username) : -1;
  const point = (to: number) => {
    const username = found[to]?.username;
    setPointed(username === undefined ? null : { value, username });
  };
  const pressed = (event: KeyboardEvent) => {
    if (event.nativeEvent.isComposing) return;
    const chosen = found[at];
    const [only, second] = found;
    if (event.key === "ArrowDown" && found.length > 0) point((at + 1) % found.length);
    else if (event.key === "ArrowUp" && found.length > 0) point(at <= 0 ? found.length - 1 : at - 1);
    else if (event.key === "Escape" && chosen !== undefined) setPointed(null);
    else if (event.key === "Enter" && chosen !== undefined) onChoose(chosen.username);
    else if (event.key === "Enter" && value.trim() !== "")
      onEnter(second === undefined ? (only?.username ?? null) : null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div className="grow people-field">
      <Field
        label={t("Username")}
        data-autofocus
        verbatim
        hint={hint}
        error={error}
        value={value}
        aria-autocomplete="list"
        aria-controls={found.length > 0 ? id : undefined}
        aria-activedescendant={at >= 0 ? `${id}${at}` : undefined}
        onChange={(event) => onChange(event.target.value)}
        onKeyDown={pressed}
      />
      {found.length > 0 && (
        <div id={id} role="listbox" aria-label={t("People")} className="people">
          {found.map((one, index) => (
            // biome-ignore lint/a11y/useFocusableInteractive: the field has the focus, and names the active one
            // biome-ignore lint/a11y/useKeyWithClickEvents: the field has the keys
            <div
              key={one.username}
              id={`${id}${index}`}
              role="option"
              aria-selected={index === at}
              data-active-item={index === at || undefined}
              className="menu-item"
              onMouseDown={(event) => event.preventDefault()}
              onClick={() => onChoose(one.username)}
            >
              <PersonFace person={one} />
            </div>
          ))}
        </div>
      )}
    </div>
  );
}

/** Who a user is, in one line. */
export function PersonFace({ person }: { person: Found }) {
  const { username, display_name, online, do_not_disturb_until } = person;
  return (
    <>
      <Avatar name={username} small online={online} quiet={isAhead(do_not_disturb_until)} />
      <bdi className="ellipsis">{display_name ?? username}</bdi>
      {display_name !== null && <span className="muted small ellipsis">{username}</span>}
      {online && <span className="muted small">{t("online")}</span>}
    </>
  );
}
