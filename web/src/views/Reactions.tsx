import { SmilePlus } from "lucide-react";
import type { Message } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { EmojiButton } from "./EmojiPicker.tsx";
import type { Tools } from "./tools.ts";

const NAMED = 12;

/** The emoji on a message, each with its count; a press adds or removes the user's own. */
export function Reactions({ message, tools }: { message: Message; tools: Tools }) {
  const reactions = Object.entries(message.reactions);
  if (reactions.length === 0) return null;
  return (
    <div className="reactions">
      {reactions.map(([emoji, who]) => (
        <button
          key={emoji}
          type="button"
          className="reaction"
          aria-pressed={who.includes(tools.me)}
          aria-label={`${emoji} ${who.length}`}
          data-tip={named(who, tools.me)}
          onClick={() => tools.react(message, emoji)}
        >
          <span className="sign">{emoji}</span> {who.length}
        </button>
      ))}
      <EmojiButton
        className="reaction add"
        label={t("Add a reaction")}
        icon={<SmilePlus size={15} />}
        onChoose={(emoji) => tools.react(message, emoji)}
      />
    </div>
  );
}

function named(who: readonly string[], me: string): string {
  const names = who.slice(0, NAMED).map((name) => (name === me ? t("you") : name));
  const others = who.length - names.length;
  return others > 0 ? t("{names} and {count} more", { names: names.join(", "), count: others }) : names.join(", ");
}
