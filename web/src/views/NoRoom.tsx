import { TidingsError } from "@tidings/client";
import { type ReactNode, useEffect, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { TopicPreview } from "../contract.gen.ts";
import { m, n, t, tx } from "../i18n.ts";
import { open } from "../location.ts";
import type { Gone } from "../store.ts";
import { nameOf, reasonOf } from "../text.ts";
import { useWork } from "./form.tsx";

/** Shown instead of a room that the user is not in. */
export function NoRoom({ room_id, gone }: { room_id: string; gone: Gone | undefined }) {
  return gone === undefined ? <NotAMember room_id={room_id} /> : <GoneRoom gone={gone} />;
}

function Back() {
  return (
    <button type="button" className="button" onClick={() => open(null)}>
      {t("Back")}
    </button>
  );
}

const REASONS: Record<string, `${string}{room}${string}`> = {
  left: m("You left {room}."),
  kicked: m("A moderator removed you from {room}."),
  banned: m("A moderator banned you from {room}."),
  deleted: m("{room} was deleted."),
};

/** Shown instead of a room that the user has lost. */
function GoneRoom({ gone: { room, reason } }: { gone: Gone }) {
  const name = nameOf(room);
  const canJoin = !room.is_private && reason !== "banned" && reason !== "deleted";
  return (
    <div className="nothing">
      <p role="status">
        {tx(REASONS[reason] ?? m("You are no longer a member of {room}."), { room: <bdi>{name}</bdi> })}{" "}
        {room.is_private && reason === "kicked" && t("You can come back if somebody invites you.")}
      </p>
      {canJoin ? <Join topic_name={room.topic_name ?? ""}>{t("Join again")}</Join> : <Back />}
    </div>
  );
}

/** Shown instead of a room that the user is not in. A public topic can be joined. */
function NotAMember({ room_id }: { room_id: string }) {
  const client = useClient();
  const connected = useView((view) => view.status.is === "online");
  const [topic, setTopic] = useState<TopicPreview | null>(null);
  const [text, setText] = useState(t("Looking for this room…"));
  useEffect(() => {
    if (!connected) return;
    client
      .ask("preview_topic", { room_id })
      .then(setTopic, (error: unknown) =>
        setText(
          error instanceof TidingsError && error.code === "not_found"
            ? t("This room does not exist, or you are not a member of it.")
            : reasonOf(error),
        ),
      );
  }, [client, connected, room_id]);
  if (topic === null)
    return (
      <div className="nothing">
        <p role="status">{text}</p>
        <Back />
      </div>
    );
  return (
    <div className="nothing">
      <h2 dir="auto">#{topic.topic_name}</h2>
      {topic.purpose !== null && <p dir="auto">{topic.purpose}</p>}
      <p className="muted">
        {n("A public topic with {count} member", "A public topic with {count} members", topic.members)}
      </p>
      <Join topic_name={topic.topic_name}>{t("Join")}</Join>
    </div>
  );
}

function Join({ topic_name, children }: { topic_name: string; children: ReactNode }) {
  const client = useClient();
  const { busy, error, run } = useWork();
  return (
    <>
      {error !== null && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
      <div className="row">
        <button
          type="button"
          className="button primary"
          disabled={busy}
          onClick={() => run(() => client.ask("subscribe", { topic_name }))}
        >
          {children}
        </button>
        <Back />
      </div>
    </>
  );
}
