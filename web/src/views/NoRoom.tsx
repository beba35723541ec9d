import { type ReactNode, useEffect, useState } from "react";
import { useClient, useView } from "../context.ts";
import type { Room } from "../contract.gen.ts";
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
      Back
    </button>
  );
}

const REASONS: Record<string, string> = {
  left: "You left",
  kicked: "A moderator removed you from",
  banned: "A moderator banned you from",
};

/** Shown instead of a room that the user has lost. */
function GoneRoom({ gone: { room, reason } }: { gone: Gone }) {
  const name = nameOf(room);
  const canJoin = !room.is_private && reason !== "banned" && reason !== "deleted";
  return (
    <div className="nothing">
      <p role="status">
        {reason === "deleted" ? (
          <>
            <bdi>{name}</bdi> was deleted.
          </>
        ) : (
          <>
            {REASONS[reason] ?? "You are no longer a member of"} <bdi>{name}</bdi>.
          </>
        )}{" "}
        {room.is_private && reason === "kicked" && "You can come back if somebody invites you."}
      </p>
      {canJoin ? <Join topic_name={room.topic_name ?? ""}>Join again</Join> : <Back />}
    </div>
  );
}

/** Shown instead of a room that the user is not in. A public topic can be joined. */
function NotAMember({ room_id }: { room_id: string }) {
  const client = useClient();
  const connected = useView((view) => view.status.is === "online");
  const [topic, setTopic] = useState<Room | null>(null);
  const [text, setText] = useState("Looking for this room…");
  useEffect(() => {
    if (!connected) return;
    const found = (topic: Room | null) => {
      setTopic(topic);
      setText("This room does not exist, or you are not a member of it.");
    };
    client.load.topic(room_id).then(found, (error: unknown) => setText(reasonOf(error)));
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
      <p className="muted">
        A public topic with {topic.members === 1 ? "1 member" : `${topic.members.toLocaleString()} members`}
        {topic.online > 0 && `, ${topic.online.toLocaleString()} online`}
      </p>
      <Join topic_name={topic.topic_name ?? ""}>Join</Join>
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
