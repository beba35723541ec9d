import { useView } from "../context.ts";
import { t } from "../i18n.ts";

const NAMED = 3;

/** Who is typing. The line is always there, so that the page does not move when a user starts typing. */
export function Typing({ room_id }: { room_id: string }) {
  const typing = useView((view) => view.state.rooms.get(room_id)?.typing);
  const names = typing === undefined ? [] : [...typing];
  return (
    <div className="typing-line" aria-live="polite">
      {names.length > 0 && (
        <>
          <span className="dots" aria-hidden="true">
            <i />
            <i />
            <i />
          </span>
          {sentence(names)}
        </>
      )}
    </div>
  );
}

function sentence(names: readonly string[]): string {
  if (names.length > NAMED) return t("Several people are typing…");
  const last = names.at(-1) ?? "";
  if (names.length === 1) return t("{name} is typing…", { name: last });
  return t("{first} and {second} are typing…", { first: names.slice(0, -1).join(", "), second: last });
}
