import { type KeyboardEvent, useId, useState } from "react";
import { t } from "../i18n.ts";
import { Avatar } from "./Avatar.tsx";
import { closedAt, completed, loadShortcodes, type Trigger } from "./completion.ts";
import { replace } from "./format.ts";
import { use } from "./often.ts";
import type { Box } from "./useBox.ts";
import { type Choice, useCompletion } from "./useCompletion.ts";
import type { ComposerText } from "./useText.ts";

export interface Suggestions {
  /** The id of the list; that of a choice is followed by its index. */
  readonly id: string;
  readonly choices: readonly Choice[];
  /** The index of the choice that Enter takes */
  readonly active: number;
  readonly point: (at: number) => void;
  readonly choose: (value: string) => void;
  /** Look for a word to complete at the caret. */
  readonly look: () => void;
  readonly close: () => void;
  /** Returns whether the key was for the list. */
  readonly pressed: (event: KeyboardEvent) => boolean;
}

/** The list that completes the word at the caret. */
export function useSuggestions(room_id: string, { text, set }: ComposerText, box: Box): Suggestions {
  const { trigger, choices, look: complete, close } = useCompletion(room_id, box.ref);
  const id = useId();
  /** The choice among those for one trigger; for another, it is the first. */
  const [pointed, setPointed] = useState<{ readonly for: Trigger | null; readonly at: number }>({ for: null, at: 0 });
  const active = pointed.for === trigger && pointed.at < choices.length ? pointed.at : 0;
  const point = (at: number) => setPointed({ for: trigger, at });
  const look = () => {
    complete();
    const area = box.ref.current;
    const closed = area === null ? null : closedAt(area.value, area.selectionStart);
    if (area === null || closed === null) return;
    const { value: typed, selectionStart: caret } = area;
    void loadShortcodes().then((shortcodes) => {
      const emoji = shortcodes.find(({ code }) => code === closed.query.toLowerCase())?.emoji;
      if (emoji === undefined || area.value !== typed) return;
      use(emoji);
      replace(area, closed.at, caret, emoji);
    });
  };
  const choose = (value: string) => {
    if (trigger === null) return;
    if (trigger.kind === ":") use(value);
    const next = completed(text, trigger, value);
    set(next.text);
    close();
    box.focusAt(next.caret);
  };
  const pressed = (event: KeyboardEvent) => {
    if (choices.length === 0) return false;
    const plain = !event.shiftKey && !event.altKey && !event.ctrlKey && !event.metaKey;
    // A name that is typed to its end needs no completion: Enter sends.
    if (event.key === "Enter" && choices[active]?.name === trigger?.query) return false;
    if (event.key === "Escape") close();
    else if (event.key === "ArrowDown" && plain) point((active + 1) % choices.length);
    else if (event.key === "ArrowUp" && plain) point((active + choices.length - 1) % choices.length);
    else if ((event.key === "Enter" || event.key === "Tab") && !event.shiftKey) choose(choices[active]?.value ?? "");
    else return true;
    event.preventDefault();
    return true;
  };
  return { id, choices, active, point, choose, look, close, pressed };
}

/** Above the whole composer, so that the quoted message stays visible. The focus stays in the box. */
export function Completions({ suggestions: { id, choices, active, point, choose } }: { suggestions: Suggestions }) {
  if (choices.length === 0) return null;
  return (
    <div id={id} role="listbox" aria-label={t("Completions")} className="menu completion">
      {choices.map((choice, at) => (
        // biome-ignore lint/a11y/useFocusableInteractive: the box has the focus, and names the active one
        // biome-ignore lint/a11y/useKeyWithClickEvents: the box has the keys
        <div
          key={choice.value}
          id={`${id}${at}`}
          role="option"
          aria-selected={at === active}
          data-active-item={at === active || undefined}
          className="menu-item"
          ref={(element) => {
            if (at === active) element?.scrollIntoView({ block: "nearest" });
          }}
          onPointerMove={() => point(at)}
          onMouseDown={(event) => event.preventDefault()}
          onClick={() => choose(choice.value)}
        >
          {choice.emoji === null ? (
            <Avatar small name={choice.name} online={choice.person?.online ?? false} />
          ) : (
            <span className="emoji-choice">{choice.emoji}</span>
          )}
          {choice.person?.display_name ?? choice.name}
          {choice.person?.display_name != null && <span className="muted small">{choice.name}</span>}
        </div>
      ))}
    </div>
  );
}
