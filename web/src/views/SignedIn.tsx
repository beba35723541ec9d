import { useEffect, useState } from "react";
import { useStore } from "zustand";
import { Client } from "../client.ts";
import { ClientContext } from "../context.ts";
import { m, t } from "../i18n.ts";
import type { Session } from "../session.ts";
import { Chat } from "./Chat.tsx";
import { SignIn } from "./SignIn.tsx";

/** The chat of the signed-in user; the sign-in form, if the session has ended. */
export function SignedIn({
  session,
  ...does
}: {
  session: Session;
  onSession: (session: Session) => void;
  onSignedOut: () => void;
}) {
  const client = useClientOf(session);
  if (client === "failed")
    return (
      <p className="nothing">{t("This browser does not allow the page to store data. Is this a private window?")}</p>
    );
  if (client === null) return null;
  return <WithClient key={session.token} client={client} {...does} />;
}

function WithClient({
  client,
  onSession,
  onSignedOut,
}: {
  client: Client;
  onSession: (session: Session) => void;
  onSignedOut: () => void;
}) {
  const status = useStore(client.view, (view) => view.status);
  const notice = status.is === "closed" && status.error !== null ? SIGN_IN_AGAIN[status.error.code] : undefined;
  if (notice !== undefined) return <SignIn username={client.me} notice={t(notice)} onSession={onSession} />;
  const signOut = () => client.signOut().finally(onSignedOut);
  return (
    <ClientContext value={client}>
      <Chat onSignOut={signOut} />
    </ClientContext>
  );
}

export const SIGN_IN_AGAIN: Record<string, string> = {
  token_expired: m("Your session has expired. Please sign in again: nothing is lost."),
  token_revoked: m("This session was signed out. Please sign in again."),
  unauthenticated: m("The server does not know this session. Please sign in again."),
};

/** The client of a session, closed when the session ends. */
function useClientOf(session: Session): Client | "failed" | null {
  const [client, setClient] = useState<Client | "failed" | null>(null);
  useEffect(() => {
    let over = false;
    const opening = Client.open(session);
    const show = (opened: Client | "failed") => {
      if (!over) setClient(opened);
    };
    opening.then(show, () => show("failed"));
    return () => {
      over = true;
      setClient(null);
      opening.then((opened) => opened.stop()).catch(() => undefined);
    };
  }, [session]);
  return client;
}
