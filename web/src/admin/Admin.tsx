/** The page at `/admin`, for administrators of the server. */
import "../styles/dialogs.css";
import "../styles/admin.css";
import { TidingsError } from "@tidings/client/errors";
import { ArrowLeft } from "lucide-react";
import { type ComponentType, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { useHashLocation } from "wouter/use-hash-location";
import { m, t } from "../i18n.ts";
import { refreshed, SERVER_NAME, type Session } from "../session.ts";
import { Problem, useAnswer } from "../views/answer.tsx";
import { SIGN_IN_AGAIN } from "../views/SignedIn.tsx";
import { SignIn } from "../views/SignIn.tsx";
import { type Ask, askWith } from "./api.ts";
import { Reports, Rooms } from "./Content.tsx";
import { Health } from "./Health.tsx";
import { AskContext } from "./parts.tsx";
import { Registration } from "./Registration.tsx";
import { Audit, Keys, Webhooks } from "./Systems.tsx";
import { Users } from "./Users.tsx";

const SECTIONS: readonly { path: string; label: string; Part: ComponentType }[] = [
  { path: "/users", label: m("Users"), Part: Users },
  { path: "/rooms", label: m("Rooms"), Part: Rooms },
  { path: "/reports", label: m("Reports"), Part: Reports },
  { path: "/registration", label: m("Registration"), Part: Registration },
  { path: "/keys", label: m("Keys"), Part: Keys },
  { path: "/webhooks", label: m("Webhooks"), Part: Webhooks },
  { path: "/audit", label: m("Audit log"), Part: Audit },
  { path: "/health", label: m("Health"), Part: Health },
];

export function Admin({ session, onSession }: { session: Session; onSession: (session: Session) => void }) {
  const [ended, setEnded] = useState<string | null>(null);
  const held = useRef(session);
  const ask = useMemo<Ask>(() => {
    const asking = askWith(async () => {
      held.current = await refreshed(held.current);
      return held.current.token;
    });
    return async (action, fields) => {
      try {
        return await asking(action, fields);
      } catch (error) {
        if (error instanceof TidingsError && error.code in SIGN_IN_AGAIN) setEnded(error.code);
        throw error;
      }
    };
  }, []);
  useEffect(() => {
    document.title = `${t("Administration")} · ${SERVER_NAME}`;
  }, []);
  if (ended !== null)
    return <SignIn username={session.username} notice={t(SIGN_IN_AGAIN[ended] ?? "")} onSession={onSession} />;
  return (
    <AskContext value={ask}>
      <Sections ask={ask} />
    </AskContext>
  );
}

function Sections({ ask }: { ask: Ask }) {
  const { answer, failed } = useAnswer(useCallback(() => ask("me", {}), [ask]));
  const [path] = useHashLocation();
  const { Part } = SECTIONS.find((section) => section.path === path) ?? { Part: Users };
  const current = useRef<HTMLAnchorElement>(null);
  const here = SECTIONS.some((section) => section.path === path) ? path : "/users";
  // biome-ignore lint/correctness/useExhaustiveDependencies: on a phone the links are wider than the screen
  useEffect(() => {
    current.current?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [here, answer]);
  return (
    <div className="admin">
      <header>
        <img src="icon.svg" alt="" />
        <div className="grow">
          <h1 className="ellipsis">{t("Administration")}</h1>
          <p className="muted small ellipsis">{SERVER_NAME}</p>
        </div>
        <a className="button" href=".">
          <ArrowLeft size={18} aria-hidden="true" /> {t("To the chat")}
        </a>
      </header>
      {answer?.admin === true && (
        <nav aria-label={t("Administration")}>
          <ul>
            {SECTIONS.map(({ path, label }) => (
              <li key={path}>
                <a
                  href={`#${path}`}
                  ref={path === here ? current : undefined}
                  aria-current={path === here ? "page" : undefined}
                >
                  {t(label)}
                </a>
              </li>
            ))}
          </ul>
        </nav>
      )}
      <main>
        <Problem text={failed} />
        {answer?.admin === true && <Part key={here} />}
        {answer?.admin === false && <p>{t("Only administrators of this server can see this page.")}</p>}
      </main>
    </div>
  );
}
