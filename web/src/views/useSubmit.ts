import { useState } from "react";
import { useClient } from "../context.ts";
import { t } from "../i18n.ts";
import { useWork } from "./form.tsx";
import type { Target } from "./target.ts";
import type { Attached, SetAttached } from "./useAttached.ts";
import type { ComposerText } from "./useText.ts";

export interface Submit {
  readonly busy: boolean;
  readonly error: string | null;
  /** Whether there is nothing to send. */
  readonly isEmpty: boolean;
  readonly clearError: () => void;
  /** Show why something is not done. */
  readonly refuse: (why: string) => void;
  readonly submit: () => Promise<void>;
  /** Leave the edit or the reply. */
  readonly cancel: () => void;
}

/** Puts a new message in the outbox, or sends an edit to the server. */
export function useSubmit({
  room_id,
  thread,
  target,
  onTarget,
  composed,
  attached,
  setAttached,
}: {
  room_id: string;
  thread: string | undefined;
  target: Target | null;
  onTarget: (target: Target | null) => void;
  composed: ComposerText;
  attached: readonly Attached[];
  setAttached: SetAttached;
}): Submit {
  const client = useClient();
  const { text, left, setDraft } = composed;
  const hasFiles = target?.kind === "edit" ? (target.message.files ?? []).length > 0 : attached.length > 0;
  const isEmpty = composed.isEmpty && !hasFiles;
  const { busy, error, run, clear } = useWork();
  const [failed, setFailed] = useState<string | null>(null);
  const clearError = () => {
    setFailed(null);
    clear();
  };
  const cancel = () => {
    clear();
    onTarget(null);
  };
  const submit = async () => {
    if (isEmpty || (left ?? 0) < 0) return;
    const content = text.replace(/^(?:[^\S\n]*\n)+/, "").trimEnd();
    if (target?.kind === "edit") {
      if (content === target.message.content) return cancel();
      if (await run(() => client.ask("edit", { message_id: target.message.id, content }))) onTarget(null);
      return;
    }
    const files = attached.map(({ content, alt }) => ({
      content,
      ...(alt.trim() === "" ? {} : { alt: alt.trim() }),
    }));
    setDraft("");
    setAttached(() => []);
    onTarget(null);
    try {
      await client.send(room_id, content, { reply_to: target?.message.id, thread, files });
    } catch {
      setDraft(content);
      setAttached(() => attached);
      setFailed(t("The message could not be saved on this device. Its storage may be full."));
    }
  };
  return { busy, error: error ?? failed, isEmpty, clearError, refuse: setFailed, submit, cancel };
}
