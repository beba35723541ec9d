import { useCallback, useEffect, useState } from "react";
import { useClient, useView } from "../context.ts";
import { hrefTo, open } from "../location.ts";
import { reasonOf } from "../text.ts";

export interface Jump {
  /** The message to show now; a new object for each jump, also to the same message. */
  readonly landed: { readonly seq: number } | null;
  readonly loading: boolean;
  readonly failed: string | null;
  again(): void;
  /** Remove the message from the address. */
  leave(): void;
}

/** Loads the message in the address, and again when the same address is opened again. */
export function useJump(room_id: string, seq: number | null): Jump {
  const client = useClient();
  const online = useView((view) => view.status.is === "online");
  const [landed, setLanded] = useState<{ seq: number } | null>(null);
  const [loading, setLoading] = useState(false);
  const [failed, setFailed] = useState<string | null>(null);
  const [count, setCount] = useState(0);
  const again = useCallback(() => setCount((before) => before + 1), []);

  // biome-ignore lint/correctness/useExhaustiveDependencies: `count` asks for the same again
  useEffect(() => {
    setFailed(null);
    if (seq === null) return setLanded(null);
    let over = false;
    setLoading(true);
    client.load
      .around(room_id, seq)
      .then(
        () => over || setLanded({ seq }),
        (error: unknown) => over || setFailed(reasonOf(error)),
      )
      .finally(() => over || setLoading(false));
    return () => {
      over = true;
      setLoading(false);
    };
  }, [client, room_id, seq, count]);

  // Following the same link twice does not change the address, so the router does not notice.
  useEffect(() => {
    if (seq === null) return;
    const here = hrefTo(room_id, seq);
    const clicked = (event: MouseEvent) => {
      const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
      if (link?.getAttribute("href") === here && window.location.hash === here) again();
    };
    const opened = (event: HashChangeEvent) => {
      if (event.oldURL === event.newURL) again();
    };
    document.addEventListener("click", clicked);
    window.addEventListener("hashchange", opened);
    return () => {
      document.removeEventListener("click", clicked);
      window.removeEventListener("hashchange", opened);
    };
  }, [room_id, seq, again]);

  useEffect(() => {
    if (online && failed !== null) again();
  }, [online, failed, again]);

  const leave = useCallback(() => {
    if (seq !== null) open(room_id, null, { replace: true });
  }, [room_id, seq]);
  return { landed, loading, failed, again, leave };
}
