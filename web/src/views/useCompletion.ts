import { type RefObject, useEffect, useMemo, useState } from "react";
import { useClient, useView } from "../context.ts";
import { loadShortcodes, matching, type Shortcode, type Trigger, triggerAt } from "./completion.ts";
import { byUse } from "./often.ts";
import type { Found } from "./people.ts";

/** The members of larger rooms are too many to load for an `@`. */
const MOST_MEMBERS = 1000;
const SHOWN = 8;
/** Emoji with a matching name, of which those used most often come first */
const EMOJI_COMPARED = 40;
const TYPED_AFTER = 150;
const byUsername = (one: Found, other: Found) => (one.username < other.username ? -1 : 1);

export interface Choice {
  /** The text to insert */
  readonly value: string;
  readonly name: string;
  /** null: it is a user. */
  readonly emoji: string | null;
  readonly person?: Found;
}

/** Completions for the word at the caret: after `@`, members of the room, then other users; emoji after `:`. */
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

  const [others, setOthers] = useState<{ readonly query: string; readonly users: readonly Found[] } | null>(null);
  const sought = trigger?.kind === "@" ? trigger.query : "";
  useEffect(() => {
    if (sought === "") return;
    let over = false;
    const ask = async () => {
      const { findUsers } = await import("./people.ts");
      const users = await findUsers(client, sought);
      if (!over) setOthers({ query: sought, users });
    };
    // Without an answer, only members are completed.
    const timer = setTimeout(() => void ask().catch(() => undefined), TYPED_AFTER);
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [client, sought]);

  const choices = useMemo<readonly Choice[]>(() => {
    if (trigger === null) return [];
    if (trigger.kind === ":")
      return byUse(
        matching(shortcodes, trigger.query, ({ code }) => code, EMOJI_COMPARED),
        ({ emoji }) => emoji,
      )
        .slice(0, SHOWN)
        .map(({ code, emoji }) => ({ value: emoji, name: `:${code}:`, emoji }));
    const names = [...(members?.values() ?? [])].filter(({ username }) => username !== client.me).sort(byUsername);
    const here = matching<Found>(names, trigger.query, ({ username }) => username, SHOWN);
    const known = new Set(here.map(({ username }) => username));
    const more = others?.query === trigger.query ? others.users.filter(({ username }) => !known.has(username)) : [];
    return [...here, ...more].slice(0, SHOWN).map((person) => ({
      value: `@${person.username}`,
      name: person.username,
      emoji: null,
      person,
    }));
  }, [trigger, shortcodes, members, others, client]);

  return { trigger, choices, look, close: () => setTrigger(null) };
}
