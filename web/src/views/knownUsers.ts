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

/** The names that contain a text and are not in `without`. */
export function matchingUsers(
  known: readonly string[],
  written: string,
  without: ReadonlySet<string> | null,
  most = 6,
): string[] {
  const sought = written.toLocaleLowerCase();
  return known.filter((one) => one.toLocaleLowerCase().includes(sought) && !without?.has(one)).slice(0, most);
}
