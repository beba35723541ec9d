/** Hooks for React. They show what this device holds immediately, also without a connection. */
import { useCallback, useEffect, useState, useSyncExternalStore } from "react";
import type { Client } from "./client.ts";
import type { Status } from "./connection.ts";
import type { TidingsError } from "./errors.ts";
import type { Presence } from "./presence.ts";
import type { Room } from "./room.ts";
import type { Timeline, TimelineState } from "./timeline.ts";
import type { Member } from "./types.ts";

export interface JoinedRoom<MyEvents> {
  /** null until the room is joined */
  readonly room: Room<MyEvents> | null;
  /** Why it could not be joined */
  readonly error: TidingsError | null;
}

/** Join a topic. */
export function useRoom<MyEvents>(client: Client<MyEvents>, topic_name: string): JoinedRoom<MyEvents> {
  const join = useCallback(() => client.join(topic_name), [client, topic_name]);
  const { value, error } = useLoaded(join);
  return { room: value, error };
}

export interface Messages extends TimelineState {
  /** Load the messages before the first one. */
  readonly loadOlder: () => Promise<void>;
}

const NO_MESSAGES: TimelineState = { messages: [], unsent: [], hasOlder: false };
const NOBODY: readonly Member[] = [];
const nothing = (): (() => void) => () => undefined;

/** The live list of a room's messages. */
export function useMessages<MyEvents>(room: Room<MyEvents> | null): Messages {
  const load = useCallback(async (): Promise<Timeline | null> => (await room?.timeline()) ?? null, [room]);
  const timeline = useLoaded(load).value;
  const subscribe = useCallback((changed: () => void) => timeline?.subscribe(changed) ?? nothing(), [timeline]);
  const state = useSyncExternalStore(
    subscribe,
    () => timeline?.state ?? NO_MESSAGES,
    () => NO_MESSAGES,
  );
  const loadOlder = useCallback(async () => timeline?.loadOlder(), [timeline]);
  return { ...state, loadOlder };
}

/** The members of a room, with who is online. */
export function usePresence<MyEvents>(room: Room<MyEvents> | null): readonly Member[] {
  const load = useCallback(async (): Promise<Presence | null> => (await room?.presence()) ?? null, [room]);
  const presence = useLoaded(load).value;
  const subscribe = useCallback((changed: () => void) => presence?.subscribe(changed) ?? nothing(), [presence]);
  return useSyncExternalStore(
    subscribe,
    () => presence?.members ?? NOBODY,
    () => NOBODY,
  );
}

/** Whether the client is connected, and if not, why. */
export function useConnection<MyEvents>(client: Client<MyEvents>): Status {
  const subscribe = useCallback((changed: () => void) => client.onStatus(changed), [client]);
  return useSyncExternalStore(
    subscribe,
    () => client.status,
    () => client.status,
  );
}

interface Loaded<T> {
  readonly of: (() => Promise<T>) | null;
  readonly value: T | null;
  readonly error: TidingsError | null;
}

/** The value of a promise; null until it resolves, and as soon as another one is asked for. */
function useLoaded<T>(load: () => Promise<T>): Loaded<T> {
  const [loaded, setLoaded] = useState<Loaded<T>>({ of: null, value: null, error: null });
  useEffect(() => {
    let isCurrent = true;
    load().then(
      (value) => isCurrent && setLoaded({ of: load, value, error: null }),
      (error) => isCurrent && setLoaded({ of: load, value: null, error: error as TidingsError }),
    );
    return () => {
      isCurrent = false;
    };
  }, [load]);
  return loaded.of === load ? loaded : { of: null, value: null, error: null };
}
