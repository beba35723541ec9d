import { Avatar } from "./ui.tsx";

/** Suggested users as buttons. Renders nothing if there are none. */
export function SuggestedUsers({ names, onChoose }: { names: readonly string[]; onChoose: (name: string) => void }) {
  if (names.length === 0) return null;
  return (
    <fieldset className="suggested">
      <legend className="muted small">People you know</legend>
      {names.map((name) => (
        <button key={name} type="button" className="chip" onClick={() => onChoose(name)}>
          <Avatar name={name} small />
          <span className="ellipsis">{name}</span>
        </button>
      ))}
    </fieldset>
  );
}
