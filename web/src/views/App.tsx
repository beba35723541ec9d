import { lazy, Suspense, useEffect, useState } from "react";
import { dropCodes, resetCode } from "../location.ts";
import { loadSession, onSessionElsewhere, type Session, saveSession } from "../session.ts";
import { SignIn } from "./SignIn.tsx";

const load = () => import("./SignedIn.tsx").then((part) => ({ default: part.SignedIn }));
const SignedIn = lazy(load);
const Admin = lazy(() => import("../admin/Admin.tsx").then((part) => ({ default: part.Admin })));
const Reset = lazy(() => import("../admin/Reset.tsx").then((part) => ({ default: part.Reset })));
const isAdmin = window.location.pathname.endsWith("/admin");

/** Shows the sign-in form, or the chat of the signed-in user. The form does not wait for the code of the chat. */
export function App() {
  const [session, setSession] = useState(loadSession);
  useEffect(() => onSessionElsewhere((changed) => setSession((now) => (sameUser(now, changed) ? now : changed))), []);
  useEffect(() => {
    load().catch(() => undefined); // it is tried again after the sign-in
  }, []);
  const enter = (entered: Session) => {
    saveSession(entered);
    setSession(entered);
  };
  const code = resetCode();
  if (code !== null)
    return (
      <Suspense>
        <Reset
          code={code}
          onSession={(entered) => {
            dropCodes();
            enter(entered);
          }}
        />
      </Suspense>
    );
  if (session === null) return <SignIn onSession={enter} />;
  return (
    <Suspense>
      {isAdmin ? (
        <Admin key={session.token} session={session} onSession={enter} />
      ) : (
        <SignedIn session={session} onSession={enter} onSignedOut={() => setSession(null)} />
      )}
    </Suspense>
  );
}

function sameUser(one: Session | null, other: Session | null): boolean {
  return one?.username === other?.username;
}
