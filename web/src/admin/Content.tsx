/** Rooms, and reported messages. */
import { useCallback } from "react";
import type { AdminRoom, Report } from "../contract.gen.ts";
import { sizeOf } from "../files.ts";
import { t, tx } from "../i18n.ts";
import { plainOf } from "../text.ts";
import { Confirm } from "../views/Confirm.tsx";
import { Ago, type Column, countOf, type Page, Records, useAsk } from "./parts.tsx";

export function Rooms() {
  const ask = useAsk();
  const load = useCallback(
    async (page: Page) => {
      const { rooms, next } = await ask("admin_get_rooms", page);
      return { items: rooms, next };
    },
    [ask],
  );
  const nameOf = ({ topic_name, title }: AdminRoom) => topic_name ?? title ?? t("Group");
  const columns: readonly Column<AdminRoom>[] = [
    {
      label: t("Name"),
      cell: (room) => (
        <>
          <strong>{nameOf(room)}</strong>{" "}
          <span className="badge">
            {room.topic_name === null ? t("Group") : room.is_private ? t("Private topic") : t("Topic")}
          </span>
        </>
      ),
    },
    { label: t("Members"), cell: ({ members }) => countOf(members) },
    { label: t("Messages"), cell: ({ messages }) => countOf(messages) },
    { label: t("Storage"), cell: ({ size }) => t("about {size}", { size: sizeOf(size) }) },
    { label: t("Created"), cell: ({ created_at }) => <Ago at={created_at} /> },
  ];
  return (
    <Records
      title={t("Rooms")}
      load={load}
      keyOf={({ room_id }) => room_id}
      columns={columns}
      none={t("There are no topics and no groups yet.")}
      actions={(room, acting) => (
        <button
          type="button"
          className="button danger"
          aria-label={t("Delete {name}", { name: nameOf(room) })}
          onClick={() =>
            acting.open((close) => (
              <Confirm
                title={t("Delete {name}?", { name: nameOf(room) })}
                does={t("Delete for ever")}
                danger
                work={() => ask("delete_room", { room_id: room.room_id })}
                onClose={close}
              >
                <p>{t("The room and all its messages are deleted for ever, for all its members.")}</p>
              </Confirm>
            ))
          }
        >
          {t("Delete")}
        </button>
      )}
    />
  );
}

export function Reports() {
  const ask = useAsk();
  const load = useCallback(
    async (page: Page) => {
      const { reports, next } = await ask("admin_get_reports", page);
      return { items: reports, next };
    },
    [ask],
  );
  const columns: readonly Column<Report>[] = [
    {
      label: t("Message"),
      cell: ({ message, content }) => (
        <>
          <strong>{message.sender}</strong> <span dir="auto">{plainOf(content, 300)}</span>
          {message.deleted && <span className="muted"> {t("The message was deleted since.")}</span>}
        </>
      ),
    },
    { label: t("Room"), cell: ({ message }) => message.topic_name ?? t("A conversation") },
    {
      label: t("Reported by"),
      cell: ({ username, reason }) => tx("{name}: {reason}", { name: <b>{username}</b>, reason }),
    },
    { label: t("When"), cell: ({ created_at }) => <Ago at={created_at} /> },
  ];
  return (
    <Records
      title={t("Reports")}
      load={load}
      keyOf={({ report_id }) => report_id}
      columns={columns}
      none={t("There are no open reports.")}
      actions={({ report_id, username, message }, { busy, run }) => (
        <button
          type="button"
          className="button"
          disabled={busy}
          aria-label={t("Close report by {name} of a message by {sender}", {
            name: username,
            sender: message.sender,
          })}
          onClick={() => run(() => ask("close_report", { report_id }), t("The report is closed."))}
        >
          {t("Close report")}
        </button>
      )}
    />
  );
}
