import { type RefObject, useMemo, useState } from "react";
import { useClient, useView } from "../context.ts";
import { loadShortcodes, matching, type Shortcode, type Trigger, triggerAt } from "./completion.ts";

/** The members of larger rooms are too many to load for an `@`. */
const MOST_MEMBERS = 1000;
const SHOWN = 8;

export interface Choice {
  /** The text to insert */
  readonly value: string;
  readonly name: string;
  /** null: it is a member. */
  readonly emoji: string | null;
}

/** Completions for the word at the caret: members of the room after `@`, emoji after `:`. */
export function useCompletion(
  room_id: string,
  box: RefObject<HTMLTextAreaElement | null>,
): { trigger: Trigger | null; choices: readonly Choice[]; look: () => void; close: () => void } {
  const client = useClient();
  const [trigger, setTrigger] = useState<Trigger | null>(null);
  const [shortcodes, setShortcodes] = useState<readonly Shortcode[]>([]);
  const members = useView((view) => view.state.rooms.get(room_id)?.members ?? null);
  const few = useView((view) => (view.state.rooms.get(room_id)?.room.members ?? 0) <= MOST_MEMBERS);

  const look = () => {
    const area = box.current;
    if (area === null) return;
    const found = area.selectionStart === area.selectionEnd ? triggerAt(area.value, area.selectionStart) : null;
    setTrigger((before) =>
      before?.kind === found?.kind && before?.query === found?.query && before?.at === found?.at ? before : found,
    );
    if (found?.kind === ":" && shortcodes.length === 0) void loadShortcodes().then(setShortcodes);
    // Offline there are no completions, but the name can still be typed.
    if (found?.kind === "@" && members === null && few) client.load.members(room_id).catch(() => undefined);
  };

  const choices = useMemo<readonly Choice[]>(() => {
    if (trigger === null) return [];
    if (trigger.kind === ":")
      return matching(shortcodes, trigger.query, ({ code }) => code, SHOWN).map(({ code, emoji }) => ({
        value: emoji,
        name: `:${code}:`,
        emoji,
      }));
    const names = [...(members?.keys() ?? [])].filter((name) => name !== client.me).sort();
    return matching(names, trigger.query, (name) => name, SHOWN).map((name) => ({
      value: `@${name}`,
      name,
      emoji: null,
    }));
  }, [trigger, shortcodes, members, client]);

  return { trigger, choices, look, close: () => setTrigger(null) };
}
