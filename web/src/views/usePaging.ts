import { useCallback, useEffect, useRef, useState } from "react";
import { useClient, useView } from "../context.ts";
import { reasonOf } from "../text.ts";
import type { Segment } from "../timeline.ts";

export type Direction = "older" | "newer";

/** The state of one direction: idle, loading, or failed with a reason. */
export type Paging = null | "loading" | { readonly failed: string };

/** Loads pages of the log before and after the shown segment. */
export function usePaging(
  room_id: string,
  segment: Segment,
  isTail: boolean,
): { paging: Record<Direction, Paging>; load: (direction: Direction, again?: boolean) => void } {
  const client = useClient();
  const online = useView((view) => view.status.is === "online");
  const [paging, setPaging] = useState<Record<Direction, Paging>>({ older: null, newer: null });
  const now = useRef({ segment, isTail, online, paging });
  now.current = { segment, isTail, online, paging };
  const busy = useRef({ older: false, newer: false });

  const load = useCallback(
    (direction: Direction, again = false) => {
      const { segment, isTail, paging } = now.current;
      if (direction === "older" ? segment.from <= 1 : isTail) return;
      // After a failure, the user or a reconnect tries again.
      if (busy.current[direction] || (paging[direction] !== null && !again)) return;
      busy.current[direction] = true;
      const tell = (what: Paging) => setPaging((before) => ({ ...before, [direction]: what }));
      tell("loading");
      (direction === "older" ? client.load.before(room_id, segment.from) : client.load.after(room_id, segment.to))
        .then(
          () => tell(null),
          (error: unknown) => tell({ failed: reasonOf(error) }),
        )
        .finally(() => {
          busy.current[direction] = false;
        });
    },
    [client, room_id],
  );

  useEffect(() => {
    if (!online) return;
    setPaging((before) => ({ older: unlessFailed(before.older), newer: unlessFailed(before.newer) }));
  }, [online]);

  return { paging, load };
}

function unlessFailed(paging: Paging): Paging {
  return paging === "loading" ? paging : null;
}
