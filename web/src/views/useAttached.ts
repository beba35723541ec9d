import { useState } from "react";
import type { Client } from "../client.ts";
import { useClient } from "../context.ts";

/** A file that the next message will have. */
export interface Attached {
  readonly id: number;
  readonly content: File;
  /** What it shows, for those who do not see it */
  readonly alt: string;
}

export type SetAttached = (change: (before: readonly Attached[]) => readonly Attached[]) => void;

const NONE: readonly Attached[] = [];
/** By room or thread: they are there again when the user comes back. */
const kept = new WeakMap<Client, Map<string, readonly Attached[]>>();

export function useAttached(key: string): readonly [attached: readonly Attached[], set: SetAttached] {
  const client = useClient();
  const of = kept.get(client) ?? new Map<string, readonly Attached[]>();
  kept.set(client, of);
  const [, render] = useState(0);
  const set: SetAttached = (change) => {
    of.set(key, change(of.get(key) ?? NONE));
    render((count) => count + 1);
  };
  return [of.get(key) ?? NONE, set];
}
