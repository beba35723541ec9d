/** Finds users by what is typed of their names: those that this device knows, and those of the server's directory. */
import { TidingsError } from "@tidings/client";
import { useEffect, useMemo, useState } from "react";
import type { Client } from "../client.ts";
import { useClient } from "../context.ts";
import type { State } from "../store.ts";
import { knownUsers, matchingUsers } from "./knownUsers.ts";

const TYPED_AFTER = 150;
const ASKED = 10;

export interface Found {
  readonly username: string;
  readonly display_name: string | null;
  readonly online: boolean;
  readonly do_not_disturb_until: string | null;
}

/** The users of the server with names like this, the one with exactly this username first. Offline: none. */
export async function findUsers(client: Client, query: string): Promise<readonly Found[]> {
  const isExact = ({ username }: Found) => username.toLocaleLowerCase() === query.toLocaleLowerCase();
  const { users } = await client.ask("get_users", { query, limit: ASKED }).catch(nobody);
  const exact = users.find(isExact);
  // A closed directory does not name those with whom the user shares no room.
  const named = exact ?? (await client.ask("get_profile", { username: query }).catch(() => null));
  const others = users.filter((one) => one !== exact && one.username !== client.me);
  return named === null || named.username === client.me ? others : [named, ...others];
}

function nobody(error: unknown): { users: Found[] } {
  if (!(error instanceof TidingsError)) throw error;
  return { users: [] };
}

/** A user whom this device knows. */
export function knownUser({ rooms, presence, profiles }: State, username: string): Found {
  let member: Found | undefined;
  for (const { members } of rooms.values()) member ??= members?.get(username);
  const profile = profiles.get(username) ?? member;
  return {
    username,
    display_name: profile?.display_name ?? presence.get(username)?.display_name ?? null,
    online: presence.get(username)?.online ?? member?.online ?? false,
    do_not_disturb_until: profile?.do_not_disturb_until ?? null,
  };
}

/** Call `found` with the users of the directory for what is typed now, shortly after its last change. */
export function useDirectory(query: string): { readonly query: string; readonly users: readonly Found[] } {
  const client = useClient();
  const [answered, setAnswered] = useState<{ query: string; users: readonly Found[] }>({ query: "", users: [] });
  useEffect(() => {
    if (query === "") return;
    let over = false;
    const ask = async () => {
      const users = await findUsers(client, query);
      if (!over) setAnswered({ query, users });
    };
    const timer = setTimeout(() => void ask(), TYPED_AFTER);
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [client, query]);
  return answered;
}

/** The users to offer for what is typed: those known at once, then the others of the directory. */
export function usePeople(typed: string, without: ReadonlySet<string>, most = 6): readonly Found[] {
  const client = useClient();
  const query = typed.trim();
  const known = useMemo(() => knownUsers(client.state).map((one) => knownUser(client.state, one)), [client]);
  const answered = useDirectory(query);
  return useMemo(
    () => merged(known, answered.query === query ? answered.users : [], query, without, most),
    [known, answered, query, without, most],
  );
}

export function merged(
  known: readonly Found[],
  users: readonly Found[],
  query: string,
  without: ReadonlySet<string>,
  most: number,
): readonly Found[] {
  const near = matchingUsers(known, query, without, most);
  const names = new Set(near.map(({ username }) => username));
  const more = users.filter(({ username }) => !names.has(username) && !without.has(username));
  return [...near, ...more].slice(0, most);
}
