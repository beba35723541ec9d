import { TidingsError } from "@tidings/client";
import { useState } from "react";
import { useClient } from "../context.ts";
import { m, t, tx } from "../i18n.ts";
import { type Invitation, invitationIn, open } from "../location.ts";
import { Field, Form, useWork } from "./form.tsx";
import { Dialog } from "./ui.tsx";

/** Join by an invitation link, from the address or pasted. */
export function JoinByLink({ invitation, onClose }: { invitation: Invitation | null; onClose: () => void }) {
  const client = useClient();
  const [text, setText] = useState(invitation?.code ?? "");
  const { busy, error, run } = useWork();
  const join = () =>
    run(async () => {
      const room = await client.ask("join_by_link", { code: invitationIn(text) }).catch(explain);
      onClose();
      open(room.room_id);
    });
  return (
    <Dialog title={t("Join by invitation")} onClose={onClose}>
      <Form onSubmit={join}>
        {invitation === null ? (
          <Field
            label={t("Invitation link")}
            data-autofocus
            verbatim
            hint={t("The whole link, or only its code")}
            error={error}
            value={text}
            onChange={(event) => setText(event.target.value)}
          />
        ) : (
          <p>
            {invitation.name === ""
              ? t("You have been invited to a room. Its members will see that you joined.")
              : tx("You have been invited to {room}. Its members will see that you joined.", {
                  room: <b dir="auto">{invitation.name}</b>,
                })}
          </p>
        )}
        {invitation !== null && error !== null && (
          <p role="alert" className="error">
            {error}
          </p>
        )}
        <footer>
          <button type="button" className="button" onClick={onClose}>
            {t("Not now")}
          </button>
          <button
            type="submit"
            className="button primary"
            data-autofocus={invitation !== null || undefined}
            disabled={busy || text.trim() === ""}
          >
            {t("Join")}
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}

function explain(error: unknown): never {
  if (error instanceof TidingsError && error.code === "not_found")
    throw new TidingsError({
      ...error,
      message: m("This invitation is no longer valid: it has expired, was used up or was revoked."),
    });
  if (error instanceof TidingsError && error.code === "conflict")
    throw new TidingsError({
      ...error,
      message: m("You are already a member of this room: it is in your list of rooms."),
    });
  throw error;
}
