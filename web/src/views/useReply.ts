import { useCallback, useRef } from "react";
import type { Message } from "../contract.gen.ts";
import { find, place, type Segments } from "../timeline.ts";

/** Finds the message that another one replies to, among the held ones, and caches where it is. */
export function useReply(segments: Segments): (answer: Message) => Message | null {
  const seqs = useRef(new Map<string, number>());
  return useCallback(
    (answer) => {
      const id = answer.reply_to;
      if (id === null) return null;
      const seq = seqs.current.get(id);
      const known = seq === undefined ? null : find(segments, seq);
      if (known !== null) return known;
      const found = search(segments, id, answer.seq);
      if (found !== null) seqs.current.set(id, found.seq);
      return found;
    },
    [segments],
  );
}

/** Search backwards from the reply; an unsent one has no seq, so the search starts at the end. */
function search(segments: Segments, id: string, before: number): Message | null {
  for (const { messages } of [...segments].reverse())
    for (let at = (before === 0 ? messages.length : place(messages, before)) - 1; at >= 0; at--)
      if (messages[at]?.id === id) return messages[at] ?? null;
  return null;
}
