/** What the timeline shows of a message that streams, besides its text. */
import { useEffect, useRef, useState } from "react";
import type { Message } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { contentOf, plainOf } from "../text.ts";
import { DisplayName } from "./DisplayName.tsx";
import type { Tools } from "./tools.ts";

/** A message that ends is among so many newest ones. */
const LOOKED_AT = 50;

/** The message is being written; anyone in the room may ask its author to stop. */
export function Streaming({ message, tools }: { message: Message; tools: Tools }) {
  const [asked, setAsked] = useState(false);
  const stop = async () => {
    setAsked(true);
    if (!(await tools.stop(message))) setAsked(false);
  };
  return (
    <div className="streaming">
      <span className="dots" aria-hidden="true" />
      <span>{asked ? t("Stopping…") : t("Writing…")}</span>
      {/* Not `disabled`, which would lose the focus. */}
      <button type="button" className="button" aria-disabled={asked} onClick={() => !asked && void stop()}>
        {t("Stop")}
        <span className="hidden">
          {" "}
          <DisplayName room_id={message.room_id} username={message.sender} />
        </span>
      </button>
    </div>
  );
}

export function Interrupted() {
  return (
    <div className="streaming" title={t("Its author stopped without finishing it")}>
      {t("interrupted")}
    </div>
  );
}

/** Announces a streamed message to screen readers, once, when it has ended. `seen`: the end of the log is shown. */
export function Finished({ messages, seen }: { messages: readonly Message[]; seen: boolean }) {
  const streaming = useRef(new Set<string>());
  const [ended, setEnded] = useState<Message | null>(null);
  useEffect(() => {
    for (const message of messages.slice(-LOOKED_AT)) {
      if (message.state === "streaming") streaming.current.add(message.id);
      else if (streaming.current.delete(message.id) && seen && !message.deleted) setEnded(message);
    }
  }, [messages, seen]);
  return (
    <div className="hidden" aria-live="polite">
      {ended !== null && (
        <p key={ended.id}>
          <DisplayName room_id={ended.room_id} username={ended.sender} />:{" "}
          {plainOf(contentOf(ended), ended.content.length)}
          {ended.state === "interrupted" && ` (${t("interrupted")})`}
        </p>
      )}
    </div>
  );
}
