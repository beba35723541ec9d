import { useState } from "react";
import { useClient } from "../context.ts";
import type { Message } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { Confirm } from "./Confirm.tsx";
import { Field } from "./form.tsx";

/** A question about a message, before it is deleted or reported. */
export interface Asked {
  readonly task: "delete" | "report";
  readonly message: Message;
}

export function MessageDialog({ task, message, onClose }: Asked & { onClose: () => void }) {
  return task === "delete" ? (
    <Removal message={message} onClose={onClose} />
  ) : (
    <Report message={message} onClose={onClose} />
  );
}

function Quoted({ message: { sender, content } }: { message: Message }) {
  return (
    <blockquote className="removal" dir="auto">
      <b>{sender}</b> {content.slice(0, 300)}
    </blockquote>
  );
}

function Removal({ message, onClose }: { message: Message; onClose: () => void }) {
  const client = useClient();
  const remove = () => client.ask("delete", { message_id: message.id });
  return (
    <Confirm title={t("Delete this message?")} does={t("Delete")} danger work={remove} onClose={onClose}>
      <p>{t("Everyone will see that a message was deleted, but not what it said. This cannot be undone.")}</p>
      <Quoted message={message} />
    </Confirm>
  );
}

function Report({ message, onClose }: { message: Message; onClose: () => void }) {
  const client = useClient();
  const [reason, setReason] = useState("");
  const direct = client.room(message.room_id)?.room.kind === "direct";
  const report = () => client.ask("report", { message_id: message.id, reason: reason.trim() });
  return (
    <Confirm title={t("Report this message?")} does={t("Report")} danger work={report} onClose={onClose}>
      <p>
        {direct
          ? t("The administrators will see it as it is now, and that you report it.")
          : t("The moderators of this room and the administrators will see it as it is now, and that you report it.")}
      </p>
      <Quoted message={message} />
      <Field
        label={t("Reason")}
        data-autofocus
        autoComplete="off"
        maxLength={500}
        value={reason}
        onChange={(event) => setReason(event.target.value)}
      />
    </Confirm>
  );
}
