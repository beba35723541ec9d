import type { Status } from "@tidings/client";
import { useEffect, useState } from "react";
import { useClient, useView } from "../context.ts";
import { m, n, t } from "../i18n.ts";
import { reasonOf } from "../text.ts";

const CONNECTS_WITHIN = 1000;
const CONNECTING = m("Connecting…");

/** Shows why there is no connection, and how many messages are unsent. Empty while online. */
export function Banner() {
  const client = useClient();
  const status = useView((view) => view.status);
  const waiting = useView((view) => view.unsent.filter((unsent) => unsent.refused === null).length);
  const text = useText(status);
  return (
    <div role="status" className={text === null ? "hidden" : "banner"}>
      {text !== null && (
        <>
          <span>{t(text)}</span>
          {waiting > 0 && (
            <span>
              {n(
                "{count} message will be sent when you are back online.",
                "{count} messages will be sent when you are back online.",
                waiting,
              )}
            </span>
          )}
          {text !== CONNECTING && (
            <button type="button" className="link-button" onClick={() => client.reconnect()}>
              {t("Connect now")}
            </button>
          )}
        </>
      )}
    </div>
  );
}

/** The text to show. While connecting, the former text stays until a delay has passed. */
function useText(status: Status): string | null {
  const [text, setText] = useState<string | null>(null);
  useEffect(() => {
    if (status.is !== "connecting") return setText(textOf(status));
    const timer = setTimeout(() => setText(CONNECTING), CONNECTS_WITHIN);
    return () => clearTimeout(timer);
  }, [status]);
  return text;
}

function textOf(status: Exclude<Status, { is: "connecting" }>): string | null {
  switch (status.is) {
    case "online":
      return null;
    case "closed":
      if (status.why === "closed") return null;
      return status.why === "refused"
        ? t("The server refused the connection. {reason}", { reason: reasonOf(status.error) })
        : WHY[status.why];
    case "offline":
      return navigator.onLine ? WHY[status.why] : m("You are offline.");
  }
}

const WHY: Record<Extract<Status, { is: "offline" }>["why"], string> = {
  unreachable: m("The server cannot be reached. Trying again…"),
  shutdown: m("The server is restarting. Reconnecting in a moment…"),
  slow_consumer: m("The connection was too slow and was closed. Catching up…"),
  token_expired: m("Your session has expired."),
  token_revoked: m("Your session was signed out."),
  replaced: m("Too many connections are open from this browser: this one was closed."),
  protocol_error: m("The server did not understand this page. Please reload it."),
};
