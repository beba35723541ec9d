/** A new password by the link of an administrator: `?reset=CODE`. */
import { useState } from "react";
import { t } from "../i18n.ts";
import { resetPassword, SERVER_NAME, type Session } from "../session.ts";
import { Problem } from "../views/answer.tsx";
import { Field, Form, useWork } from "../views/form.tsx";

export function Reset({ code, onSession }: { code: string; onSession: (session: Session) => void }) {
  const [password, setPassword] = useState("");
  const [shown, setShown] = useState(false);
  const { busy, error, field, run } = useWork();
  const atField = field === "password" || field === "new_password";
  return (
    <main className="sign-in">
      <Form
        className="sign-in-form"
        onSubmit={() => void run(async () => onSession(await resetPassword(code, password)))}
      >
        <div className="brand">
          <img src="icon.svg" alt="" />
          <div className="grow">
            <h1>{SERVER_NAME}</h1>
            <p className="muted ellipsis">{window.location.host}</p>
          </div>
        </div>
        <p>{t("Choose a new password. You will be signed out on all your devices, and signed in here.")}</p>
        <Field
          label={t("New password")}
          type={shown ? "text" : "password"}
          autoComplete="new-password"
          autoFocus
          required
          hint={t("At least 8 characters")}
          error={atField ? error : null}
          value={password}
          onChange={(event) => setPassword(event.target.value)}
        />
        <label className="check">
          <input type="checkbox" checked={shown} onChange={(event) => setShown(event.target.checked)} />
          {t("Show password")}
        </label>
        <Problem text={atField ? null : error} />
        <button type="submit" className="button primary" disabled={busy || password === ""}>
          {t("Set the password")}
        </button>
      </Form>
    </main>
  );
}
