/** Users to suggest: partners of conversations, and the loaded members of rooms. */
import type { State } from "../store.ts";
import { tailOf } from "../timeline.ts";

const LOOKED_AT = 50;
const MEMBERS = 200;

/** The most recent first. */
export function knownUsers({ me, rooms }: State): string[] {
  const people = new Set<string>();
  const latest = [...rooms.values()].sort((one, other) =>
    (other.room.last_message?.created_at ?? "") < (one.room.last_message?.created_at ?? "") ? -1 : 1,
  );
  for (const { room, segments } of latest) {
    if (room.kind === "direct" && room.title !== null) people.add(room.title);
    for (const { sender } of tailOf(segments).messages.slice(-LOOKED_AT)) people.add(sender);
  }
  for (const { members } of latest)
    if (members !== null && members.size <= MEMBERS) for (const name of members.keys()) people.add(name);
  people.delete(me);
  return [...people];
}

interface Named {
  readonly username: string;
  readonly display_name: string | null;
}

/** Those whose username or display name contains a text, and who are not in `without`. */
export function matchingUsers<T extends Named>(
  known: readonly T[],
  written: string,
  without: ReadonlySet<string>,
  most: number,
): T[] {
  const sought = written.toLocaleLowerCase();
  const fits = ({ username, display_name }: Named) =>
    !without.has(username) && `${username}\n${display_name ?? ""}`.toLocaleLowerCase().includes(sought);
  return known.filter(fits).slice(0, most);
}
