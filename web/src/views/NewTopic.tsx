import { useState } from "react";
import { useClient } from "../context.ts";
import type { Posting } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { open } from "../location.ts";
import { Field, Form, useWork } from "./form.tsx";
import { Dialog } from "./ui.tsx";

export function NewTopic({ onClose }: { onClose: () => void }) {
  const client = useClient();
  const [name, setName] = useState("");
  const [purpose, setPurpose] = useState("");
  const [isPrivate, setPrivate] = useState(false);
  const [posting, setPosting] = useState<Posting>("members");
  const { busy, error, run } = useWork();
  const create = () =>
    run(async () => {
      const room = await client.ask("create", {
        topic_name: name.trim(),
        is_private: isPrivate,
        posting,
        purpose: purpose.trim() || null,
      });
      open(room.room_id);
      onClose();
    });
  return (
    <Dialog title={t("New topic")} onClose={onClose}>
      <Form onSubmit={create}>
        <Field
          label={t("Topic name")}
          data-autofocus
          required
          autoComplete="off"
          autoCapitalize="none"
          hint={t("For example: release-planning")}
          error={error}
          value={name}
          onChange={(event) => setName(event.target.value)}
        />
        <Field
          label={t("Purpose (optional)")}
          autoComplete="off"
          maxLength={250}
          hint={t("Everyone who finds this room sees it.")}
          value={purpose}
          onChange={(event) => setPurpose(event.target.value)}
        />
        <div>
          <label className="check">
            <input type="checkbox" checked={isPrivate} onChange={(event) => setPrivate(event.target.checked)} />
            {t("Private")}
          </label>
          <p className="muted small">
            {isPrivate
              ? t("This topic will be private: only people you or other members invite can see it and join.")
              : t("This topic will be public: everyone on this server can find it and join.")}
          </p>
        </div>
        <label className="check">
          <input
            type="checkbox"
            checked={posting === "moderators"}
            onChange={(event) => setPosting(event.target.checked ? "moderators" : "members")}
          />
          {t("Only moderators can write")}
        </label>
        <footer>
          <button type="button" className="button" onClick={onClose}>
            {t("Cancel")}
          </button>
          <button type="submit" className="button primary" disabled={busy || name.trim() === ""}>
            {t("Create")}
          </button>
        </footer>
      </Form>
    </Dialog>
  );
}
