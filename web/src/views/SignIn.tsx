import { useState } from "react";
import { createAccount, type Session, signIn } from "../session.ts";
import { Field, Form, useWork } from "./ui.tsx";

/** Sign in, or make an account: one form, two buttons. `notice` says why one has to sign in again. */
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
  const { busy, error, run } = useWork();
  const enter = (way: typeof signIn) => run(async () => onSession(await way(username.trim(), password)));
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
          hint="At least 8 characters."
          value={password}
          onChange={(event) => setPassword(event.target.value)}
        />
        <label className="check">
          <input type="checkbox" checked={shown} onChange={(event) => setShown(event.target.checked)} />
          Show what I type
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
