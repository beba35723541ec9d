import { useEffect, useState } from "react";
import type { Status } from "../connection.ts";
import { useClient, useView } from "../context.ts";
import { reasonOf } from "../text.ts";

const CONNECTS_WITHIN = 1000;

/** Says, quietly, that there is no connection, why, and what waits. Nothing when all is well. */
export function Banner() {
  const client = useClient();
  const status = useView((view) => view.status);
  const waiting = useView((view) => view.unsent.filter((unsent) => unsent.refused === null).length);
  const patient = usePatience(status);
  const text = patient ? null : textOf(status);
  return (
    <div role="status" className={text === null ? "hidden" : "banner"}>
      {text !== null && (
        <>
          <span>{text}</span>
          {waiting > 0 && (
            <span>
              {waiting === 1 ? "1 message waits and will be sent." : `${waiting} messages wait and will be sent.`}
            </span>
          )}
          {status.is !== "connecting" && (
            <button type="button" className="link-button" onClick={() => client.reconnect()}>
              Connect now
            </button>
          )}
        </>
      )}
    </div>
  );
}

/** Whether it connects, and has not taken so long that it is worth a word. */
function usePatience(status: Status): boolean {
  const connecting = status.is === "connecting";
  const [long, setLong] = useState(false);
  useEffect(() => {
    setLong(false);
    if (!connecting) return;
    const timer = setTimeout(() => setLong(true), CONNECTS_WITHIN);
    return () => clearTimeout(timer);
  }, [connecting]);
  return connecting && !long;
}

function textOf(status: Status): string | null {
  switch (status.is) {
    case "online":
      return null;
    case "connecting":
      return "Connecting…";
    case "refused":
      return `The server refuses the connection. ${reasonOf(status.error)}`;
    case "offline":
      return WHY[status.why];
  }
}

const WHY: Record<Extract<Status, { is: "offline" }>["why"], string> = {
  unreachable: "The server cannot be reached. Trying again.",
  no_network: "You are offline.",
  shutdown: "The server is restarting. Coming back in a moment.",
  slow_consumer: "This connection was too slow and was closed. Catching up.",
  token_expired: "Your session has expired.",
  token_revoked: "Your session was ended.",
  replaced: "Too many connections are open from this browser; this one was closed.",
  protocol_error: "The server did not understand this page. Reload it, please.",
};
