import { useState } from "react";
import { useRoute } from "../location.ts";
import { createAccount, type Session, signIn } from "../session.ts";
import { Field, Form, useWork } from "./ui.tsx";

/** Sign in or register: one form, two buttons. `notice` says why the user has to sign in again. */
export function SignIn({
  username: known = "",
  notice = null,
  onSession,
}: {
  username?: string;
  notice?: string | null;
  onSession: (session: Session) => void;
}) {
  const [username, setUsername] = useState(known);
  const [password, setPassword] = useState("");
  const [shown, setShown] = useState(false);
  const { busy, error, run, clear } = useWork();
  const { invitation, topic } = useRoute();
  const [missing, setMissing] = useState<"username" | "password" | null>(null);
  const enter = (way: typeof signIn) => {
    const [named, empty] = [username.trim(), password === ""];
    setMissing(named === "" ? "username" : empty ? "password" : null);
    if (named === "" || empty) return clear();
    return run(async () => onSession(await way(named, password)));
  };
  return (
    <main className="sign-in">
      <Form className="sign-in-form" onSubmit={() => enter(signIn)}>
        <div className="brand">
          <img src="/icon.svg" alt="" />
          <div>
            <h1>Tidings</h1>
            <p className="muted">What you send arrives.</p>
          </div>
        </div>
        {notice === null && invitation !== null && (
          <p className="banner" role="status">
            <span>
              You have been invited to {invitation.name === "" ? "a room" : <b dir="auto">{invitation.name}</b>}. Sign
              in or create an account to join it.
            </span>
          </p>
        )}
        {notice === null && topic !== null && (
          <p className="banner" role="status">
            <span>
              This link leads to {topic === "" ? "a topic" : <b dir="auto">#{topic}</b>}. Sign in or create an account
              to open it.
            </span>
          </p>
        )}
        {notice !== null && (
          <p className="banner" role="status">
            {notice}
          </p>
        )}
        <Field
          label="Username"
          name="username"
          verbatim
          autoComplete="username"
          required
          autoFocus={known === ""}
          error={missing === "username" ? "Enter a username." : null}
          value={username}
          onChange={(event) => setUsername(event.target.value)}
        />
        <Field
          label="Password"
          name="password"
          type={shown ? "text" : "password"}
          autoComplete="current-password"
          required
          autoFocus={known !== ""}
          hint="At least 8 characters"
          error={missing === "password" ? "Enter a password." : null}
          value={password}
          onChange={(event) => setPassword(event.target.value)}
        />
        <label className="check">
          <input type="checkbox" checked={shown} onChange={(event) => setShown(event.target.checked)} />
          Show password
        </label>
        {error !== null && (
          <p className="error" role="alert">
            {error}
          </p>
        )}
        <div className="buttons">
          <button type="submit" className="button primary" disabled={busy}>
            Sign in
          </button>
          <button type="button" className="button" disabled={busy} onClick={() => enter(createAccount)}>
            Create account
          </button>
        </div>
      </Form>
    </main>
  );
}
