import { useEffect, useId, useState } from "react";
import type { TopicPreview } from "../contract.gen.ts";
import { n, t, tx } from "../i18n.ts";
import { dropCodes, registrationCode, useRoute } from "../location.ts";
import { createAccount, previewed, registration, SERVER_NAME, type Session, signIn } from "../session.ts";
import { Field, Form, useWork } from "./form.tsx";

/** What was done in the form of index.html, which is there before the code is. */
function done<E extends HTMLElement>(selector: string): E | null {
  return document.querySelector<E>(`.sign-in[data-first] ${selector}`);
}

const typed = (name: string) => done<HTMLInputElement>(`[name=${name}]`)?.value ?? "";

/**
 * Sign in or register: one form, and a choice above it, which is to register for whoever comes by a link. It looks like
 * the form of index.html, and takes over from it. `notice` says why the user has to sign in again.
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
  const [username, setUsername] = useState(() => known || typed("username"));
  const [password, setPassword] = useState(() => typed("password"));
  const [begins] = useState(() => (known !== "" || done("[name=password]:focus") !== null ? "password" : "username"));
  const [shown, setShown] = useState(false);
  const { busy, error, code: refused, field, run, clear } = useWork();
  const { invitation, topic, room_id } = useRoute();
  const preview = usePreview(topic === null ? null : room_id);
  const [code] = useState(registrationCode);
  const refusal = useRefusal(code);
  const [chosen, setChosen] = useState<boolean | null>(() => (done("[value=create]:checked") === null ? null : true));
  const byLink = invitation !== null || topic !== null || code !== null;
  const creating = chosen ?? (notice === null && byLink && refusal === null);
  const [missing, setMissing] = useState<"username" | "password" | null>(null);
  const id = useId();
  const choose = (create: boolean) => {
    setChosen(create);
    setMissing(null);
    clear();
  };
  const enter = (create: boolean) => {
    if (create && refusal !== null) return;
    const [named, empty] = [username.trim(), password === ""];
    setMissing(named === "" ? "username" : empty ? "password" : null);
    if (named === "" || empty) return clear();
    return run(async () => {
      const session = await (create ? createAccount(named, password, code) : signIn(named, password));
      dropCodes();
      onSession(session);
    });
  };
  const at = refused === "conflict" ? "username" : field;
  const problem = (name: "username" | "password") => {
    if (at === name || missing !== name) return at === name ? error : null;
    return name === "username" ? t("Enter a username.") : t("Enter a password.");
  };
  return (
    <main className="sign-in">
      <Form className="sign-in-form" onSubmit={() => enter(creating)}>
        <div className="brand">
          <img src="icon.svg" alt="" />
          <div className="grow">
            <h1>{SERVER_NAME}</h1>
            <p className="muted ellipsis">{window.location.host}</p>
          </div>
        </div>
        {notice === null && code !== null && (
          <p className="banner" role="status">
            <span>{t("You have been invited to create an account here.")}</span>
          </p>
        )}
        {notice === null && invitation !== null && (
          <p className="banner" role="status">
            <span>
              {invitation.name === ""
                ? t("You have been invited to a room. Sign in or create an account to join it.")
                : tx("You have been invited to {room}. Sign in or create an account to join it.", {
                    room: <b dir="auto">{invitation.name}</b>,
                  })}
            </span>
          </p>
        )}
        {notice === null && topic !== null && (
          <p className="banner" role="status">
            <span>
              {topic === ""
                ? t("This link leads to a topic. Sign in or create an account to open it.")
                : tx("This link leads to {topic}. Sign in or create an account to open it.", {
                    topic: <b dir="auto">#{preview?.topic_name ?? topic}</b>,
                  })}
              {preview !== null && (
                <span className="small">
                  {" "}
                  {preview.purpose !== null && <bdi>{preview.purpose} · </bdi>}
                  {n("{count} member", "{count} members", preview.members)}
                </span>
              )}
            </span>
          </p>
        )}
        {notice !== null && (
          <p className="banner" role="status">
            {notice}
          </p>
        )}
        <fieldset className="segments">
          <legend className="hidden">{t("New here?")}</legend>
          {[false, true].map((create) => (
            <label key={String(create)}>
              <input type="radio" name={id} checked={creating === create} onChange={() => choose(create)} />
              <span>{create ? t("Create account") : t("Sign in")}</span>
            </label>
          ))}
        </fieldset>
        <Field
          label={t("Username")}
          name="username"
          verbatim
          autoComplete="username"
          required
          autoFocus={begins === "username"}
          error={problem("username")}
          value={username}
          onChange={(event) => setUsername(event.target.value)}
        />
        <Field
          label={t("Password")}
          name="password"
          type={shown ? "text" : "password"}
          autoComplete={creating ? "new-password" : "current-password"}
          required
          autoFocus={begins === "password"}
          hint={creating && t("At least 8 characters")}
          error={problem("password")}
          value={password}
          onChange={(event) => setPassword(event.target.value)}
        />
        <label className="check">
          <input type="checkbox" checked={shown} onChange={(event) => setShown(event.target.checked)} />
          {t("Show password")}
        </label>
        {error !== null && at !== "username" && at !== "password" && (
          <p className="error" role="alert">
            {error}{" "}
            {refused === "unauthenticated" && refusal === null && t("If you are new here, choose “Create account”.")}
          </p>
        )}
        {creating && refusal !== null && (
          <p className="error" role="alert">
            {refusal}
          </p>
        )}
        <button type="submit" className="button primary" disabled={busy}>
          {creating ? t("Create account") : t("Sign in")}
        </button>
      </Form>
    </main>
  );
}

/** What a topic is about, where anybody may register. */
function usePreview(room_id: string | null): TopicPreview | null {
  const [preview, setPreview] = useState<TopicPreview | null>(null);
  useEffect(() => {
    if (room_id !== null) void previewed(room_id).then(setPreview);
  }, [room_id]);
  return preview;
}

/** Why nobody can create an account with this code, or without one; null: one can, or the server has not said yet. */
function useRefusal(code: string | null): string | null {
  const [mode, setMode] = useState<Awaited<ReturnType<typeof registration>> | null>(null);
  useEffect(() => {
    // Without an answer, the server refuses the registration itself.
    registration().then(setMode, () => undefined);
  }, []);
  if (mode === "closed") return t("New accounts are made by the administrators of this server only.");
  return mode === "invite" && code === null ? t("To create an account, open the link of an administrator.") : null;
}
