import "../styles/dialogs.css";
import { useEffect, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { Report, Room } from "../contract.gen.ts";
import { t, tx } from "../i18n.ts";
import { open } from "../location.ts";
import { momentOf, reasonOf } from "../text.ts";
import { useWork } from "./form.tsx";
import { Dialog } from "./ui.tsx";

/** The open reports of messages in a room, for its moderators. */
export function ReportsDialog({ room: { room_id }, onClose }: { room: Room; onClose: () => void }) {
  const client = useClient();
  const reports = useView((view) => view.state.reports.get(room_id));
  const [failed, setFailed] = useState<string | null>(null);
  useEffect(() => {
    // Another moderator may have closed some: there is no event about that.
    client.load.reports(room_id).catch((error: unknown) => setFailed(reasonOf(error)));
  }, [client, room_id]);
  return (
    <Dialog title={t("Reports")} onClose={onClose}>
      {failed !== null && (
        <p role="alert" className="error">
          {failed}
        </p>
      )}
      {reports?.map((report) => (
        <Reported key={report.report_id} report={report} onClose={onClose} />
      ))}
      {reports?.length === 0 && <p className="muted">{t("There are no open reports.")}</p>}
    </Dialog>
  );
}

function Reported({ report, onClose }: { report: Report; onClose: () => void }) {
  const client = useClient();
  const { busy, error, run } = useWork();
  const { report_id, message, content, username, reason, created_at } = report;
  const { room_id } = message;
  /** After it, the list is as the server has it now. */
  const act = (work: () => Promise<unknown>) =>
    run(async () => {
      await work();
      await client.load.reports(room_id);
    });
  const go = () => {
    onClose();
    open(room_id, message.seq);
  };
  return (
    <article className="made-link">
      <p>
        {tx("{username} reported this on {time}: {reason}", {
          username: <b>{username}</b>,
          time: momentOf(created_at),
          reason,
        })}
      </p>
      <blockquote className="removal" dir="auto">
        <b>{message.sender}</b> {content.slice(0, 1000)}
      </blockquote>
      {message.deleted && <p className="muted small">{t("The message was deleted since.")}</p>}
      {error !== null && (
        <p role="alert" className="error">
          {error}
        </p>
      )}
      <div className="row">
        <button type="button" className="button" onClick={go}>
          {t("Go to message")}
        </button>
        {!message.deleted && (
          <button
            type="button"
            className="button danger"
            disabled={busy}
            onClick={() => void act(() => client.ask("delete", { message_id: message.id }))}
          >
            {t("Delete message")}
          </button>
        )}
        <button
          type="button"
          className="button"
          disabled={busy}
          onClick={() => void act(() => client.ask("close_report", { report_id }))}
        >
          {t("Close report")}
        </button>
      </div>
    </article>
  );
}
