import { useEffect, useState } from "react";
import { dropRegistrationCode, registrationCode, useRoute } from "../location.ts";
import { createAccount, registration, type Session, signIn } from "../session.ts";
import { Field, Form, useWork } from "./form.tsx";

/**
 * Sign in or register: one form, two buttons. Enter signs in; it registers whoever comes by a link, or has pressed that
 * button before. `notice` says why the user has to sign in again.
 */
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
  const { busy, error, code: refused, field, run, clear } = useWork();
  const { invitation, topic } = useRoute();
  const [code] = useState(registrationCode);
  const refusal = useRefusal(code);
  const [chosen, setChosen] = useState<boolean | null>(null);
  const byLink = invitation !== null || topic !== null || code !== null;
  const creating = chosen ?? (notice === null && byLink && refusal === null);
  const [missing, setMissing] = useState<"username" | "password" | null>(null);
  const enter = (create: boolean) => {
    setChosen(create);
    if (create && refusal !== null) return clear();
    const [named, empty] = [username.trim(), password === ""];
    setMissing(named === "" ? "username" : empty ? "password" : null);
    if (named === "" || empty) return clear();
    return run(async () => {
      const session = await (create ? createAccount(named, password, code) : signIn(named, password));
      dropRegistrationCode();
      onSession(session);
    });
  };
  const choice = (create: boolean, label: string) => (
    <button
      type={create === creating ? "submit" : "button"}
      className={`button ${create === creating ? "primary" : ""}`}
      disabled={busy}
      onClick={create === creating ? undefined : () => enter(create)}
    >
      {label}
    </button>
  );
  const at = refused === "conflict" ? "username" : field;
  const problem = (name: string) => (at === name ? error : missing === name ? `Enter a ${name}.` : null);
  return (
    <main className="sign-in">
      <Form className="sign-in-form" onSubmit={() => enter(creating)}>
        <div className="brand">
          <img src="icon.svg" alt="" />
          <div>
            <h1>Tidings</h1>
            <p className="muted">What you send arrives.</p>
          </div>
        </div>
        {notice === null && code !== null && (
          <p className="banner" role="status">
            <span>You have been invited to create an account here.</span>
          </p>
        )}
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
          error={problem("username")}
          value={username}
          onChange={(event) => setUsername(event.target.value)}
        />
        <Field
          label="Password"
          name="password"
          type={shown ? "text" : "password"}
          autoComplete={creating ? "new-password" : "current-password"}
          required
          autoFocus={known !== ""}
          hint={creating && "At least 8 characters"}
          error={problem("password")}
          value={password}
          onChange={(event) => setPassword(event.target.value)}
        />
        <label className="check">
          <input type="checkbox" checked={shown} onChange={(event) => setShown(event.target.checked)} />
          Show password
        </label>
        {error !== null && at !== "username" && at !== "password" && (
          <p className="error" role="alert">
            {error}{" "}
            {refused === "unauthenticated" && refusal === null && "If you are new here, choose “Create account”."}
          </p>
        )}
        {creating && refusal !== null && (
          <p className="error" role="alert">
            {refusal}
          </p>
        )}
        <div className="buttons">
          {choice(false, "Sign in")}
          {choice(true, "Create account")}
        </div>
      </Form>
    </main>
  );
}

/** Why nobody can create an account with this code, or without one; null: one can, or the server has not said yet. */
function useRefusal(code: string | null): string | null {
  const [mode, setMode] = useState<Awaited<ReturnType<typeof registration>> | null>(null);
  useEffect(() => {
    // Without an answer, the server refuses the registration itself.
    registration().then(setMode, () => undefined);
  }, []);
  if (mode === "closed") return "New accounts are made by the administrators of this server only.";
  return mode === "invite" && code === null ? "To create an account, open the link of an administrator." : null;
}
