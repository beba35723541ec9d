import { ComboboxItem, ComboboxPopover, type ComboboxStore, useComboboxStore } from "@ariakit/react";
import { type KeyboardEvent, useLayoutEffect } from "react";
import { closedAt, completed, loadShortcodes } from "./completion.ts";
import { Avatar } from "./ui.tsx";
import type { Box } from "./useBox.ts";
import { type Choice, useCompletion } from "./useCompletion.ts";
import type { ComposerText } from "./useText.ts";

export interface Suggestions {
  readonly store: ComboboxStore;
  readonly choices: readonly Choice[];
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
  const store = useComboboxStore({ placement: "top-start" });
  const isOpen = choices.length > 0;
  // biome-ignore lint/correctness/useExhaustiveDependencies: the store is the same in every render
  useLayoutEffect(() => store.setOpen(isOpen), [isOpen]);
  const look = () => {
    complete();
    const area = box.ref.current;
    const closed = area === null ? null : closedAt(area.value, area.selectionStart);
    if (area === null || closed === null) return;
    const { value: typed, selectionStart: caret } = area;
    void loadShortcodes().then((shortcodes) => {
      const emoji = shortcodes.find(({ code }) => code === closed.query.toLowerCase())?.emoji;
      if (emoji === undefined || area.value !== typed) return;
      set(typed.slice(0, closed.at) + emoji + typed.slice(caret));
      box.focusAt(closed.at + emoji.length);
    });
  };
  const choose = (value: string) => {
    if (trigger === null) return;
    const next = completed(text, trigger, value);
    set(next.text);
    close();
    box.focusAt(next.caret);
  };
  const pressed = (event: KeyboardEvent) => {
    if (!isOpen) return false;
    if (event.key === "Escape") close();
    else if ((event.key === "Enter" || event.key === "Tab") && !event.shiftKey)
      choose(store.getState().activeValue ?? choices[0]?.value ?? "");
    else return true;
    event.preventDefault();
    return true;
  };
  return { store, choices, choose, look, close, pressed };
}

export function Completions({ suggestions, box }: { suggestions: Suggestions; box: Box }) {
  const { store, choices, choose } = suggestions;
  return (
    <ComboboxPopover
      store={store}
      className="menu completion"
      aria-label="Completions"
      gutter={6}
      unmountOnHide
      // At the left edge of the box, above the message that is quoted.
      getAnchorRect={() => box.ref.current?.closest(".composer")?.firstElementChild?.getBoundingClientRect() ?? null}
    >
      {choices.map((choice) => (
        <ComboboxItem
          key={choice.value}
          className="menu-item"
          value={choice.value}
          focusOnHover
          setValueOnClick={false}
          onMouseDown={(event) => event.preventDefault()}
          onClick={() => choose(choice.value)}
        >
          {choice.emoji === null ? (
            <Avatar small name={choice.name} />
          ) : (
            <span className="emoji-choice">{choice.emoji}</span>
          )}
          {choice.name}
        </ComboboxItem>
      ))}
    </ComboboxPopover>
  );
}
