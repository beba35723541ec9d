import { useState } from "react";
import { useClient } from "../context.ts";
import { invitationIn, open } from "../location.ts";
import { Refused } from "../session.ts";
import { Dialog, Field, Form, useWork } from "./ui.tsx";

/** Join by an invitation; `code` is there already if its address was opened. */
export function JoinByLink({ code: given, onClose }: { code: string; onClose: () => void }) {
  const client = useClient();
  const [text, setText] = useState(given);
  const { busy, error, run } = useWork();
  const join = () =>
    run(async () => {
      const room = await client.ask("join_by_link", { code: invitationIn(text) }).catch(explain);
      onClose();
      open(room.room_id);
    });
  return (
    <Dialog title="Join by invitation" onClose={onClose}>
      <Form onSubmit={join}>
        {given !== "" && <p>You were invited. Joining, you become a member, and the others see that you came.</p>}
        <Field
          label="Invitation link"
          data-autofocus
          verbatim
          hint="The whole link, or the code at its end."
          error={error}
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
        <footer>
          <button type="button" className="button" onClick={onClose}>
            Not now
          </button>
          <button type="submit" className="button primary" disabled={busy || text.trim() === ""}>
            Join
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}

function explain(error: unknown): never {
  if (error instanceof Refused && error.code === "not_found")
    throw new Refused({
      ...error,
      message: "This invitation is not good any more: it has expired, was used up or taken back.",
    });
  if (error instanceof Refused && error.code === "conflict")
    throw new Refused({ ...error, message: "You are a member already: you find it among your rooms." });
  throw error;
}
