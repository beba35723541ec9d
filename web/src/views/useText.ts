import { useEffect, useRef, useState } from "react";
import { useClient } from "../context.ts";
import type { Target } from "./target.ts";

/** The server's limit, in code points. */
const LONGEST = 16_384;
/** From this length on (UTF-16 units), count code points at every key. */
const COUNT_FROM = 15_000;

export interface ComposerText {
  readonly text: string;
  readonly isEmpty: boolean;
  /** Characters that may follow; negative: so many are too many. null: far from the limit. */
  readonly left: number | null;
  readonly set: (text: string) => void;
  readonly setDraft: (text: string) => void;
}

/** The text in the box: the draft of the room or the thread, or the message that is being edited. */
export function useText(room_id: string, thread: string | undefined, target: Target | null): ComposerText {
  const client = useClient();
  const [draft, setDraft] = useDraft(thread === undefined ? room_id : `thread ${thread}`);
  /** The changed text of one target; another target starts with its own content. */
  const [edited, setEdited] = useState<{ readonly target: Target; readonly text: string } | null>(null);
  const editing = target?.kind === "edit" ? target : null;
  const text = editing === null ? draft : edited?.target === editing ? edited.text : editing.message.content;
  const set = (next: string) => {
    if (editing !== null) return setEdited({ target: editing, text: next });
    setDraft(next);
    if (thread === undefined) client.typing(room_id, next.trim() !== "");
  };
  const left = text.length < COUNT_FROM ? null : LONGEST - [...text].length;
  return { text, isEmpty: text.trim() === "", left, set, setDraft };
}

/** The unsent text of a room or a thread, stored until it is sent. */
function useDraft(key: string): [string, (text: string) => void] {
  const client = useClient();
  const [draft, setDraft] = useState("");
  const touched = useRef(false);
  useEffect(() => {
    void client.draft(key).then((stored) => touched.current || setDraft(stored));
  }, [client, key]);
  const write = (text: string) => {
    touched.current = true;
    setDraft(text);
    client.keepDraft(key, text);
  };
  return [draft, write];
}
