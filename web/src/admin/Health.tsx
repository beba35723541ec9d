import { useCallback, useEffect } from "react";
import { sizeOf } from "../files.ts";
import { t } from "../i18n.ts";
import { Problem, useAnswer } from "../views/answer.tsx";
import { Ago, countOf, useAsk } from "./parts.tsx";

/** ms between two looks at the server */
const REFRESHED_EVERY = 10_000;

export function Health() {
  const ask = useAsk();
  const { answer, failed, again } = useAnswer(useCallback(() => ask("admin_get_health", {}), [ask]));
  useEffect(() => {
    const timer = setInterval(() => void again(), REFRESHED_EVERY);
    return () => clearInterval(timer);
  }, [again]);
  const ms = (value: number | null) => (value === null ? t("nothing to measure") : t("{count} ms", { count: value }));
  return (
    <section>
      <h2>{t("Health")}</h2>
      <Problem text={failed} />
      {answer !== null && (
        <>
          <p role="status" className={answer.trouble === null ? "good" : "error"}>
            {answer.trouble === null
              ? answer.degraded === null
                ? t("Everything works.")
                : t("Messages arrive, but: {reason}.", { reason: answer.degraded })
              : t("No message can be written: {reason}.", { reason: answer.trouble })}
          </p>
          <dl>
            {[
              [
                t("Delivery of a message"),
                ms(answer.delivery_ms),
                t("99 % take no longer, in the last minute or two"),
              ],
              [t("Commit"), ms(answer.commit_ms), t("99 % take no longer, in the last minute or two")],
              [
                t("Lag of the event loop"),
                ms(answer.loop_lag_ms),
                t("99 % take no longer, in the last minute or two"),
              ],
              [t("Changes that wait for a commit"), countOf(answer.waiting_changes)],
              [t("Database errors"), countOf(answer.database_errors), t("since the start")],
              [t("Database"), sizeOf(answer.database_bytes)],
              [
                t("Free disk space"),
                t("{free} of {total}", { free: sizeOf(answer.disk_free_bytes), total: sizeOf(answer.disk_bytes) }),
              ],
              [t("Connections"), countOf(answer.connections)],
              [t("Users online"), countOf(answer.online_users)],
              [t("Version"), answer.version, answer.node],
            ].map(([name, value, note]) => (
              <div key={name}>
                <dt>{name}</dt>
                <dd>
                  <strong>{value}</strong>
                  {note !== undefined && <span className="muted small">{note}</span>}
                </dd>
              </div>
            ))}
            <div>
              <dt>{t("Started")}</dt>
              <dd>
                <strong>
                  <Ago at={answer.started_at} />
                </strong>
              </dd>
            </div>
          </dl>
        </>
      )}
    </section>
  );
}
