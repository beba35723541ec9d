import { useCallback } from "react";
import { useClient } from "../context.ts";
import { t } from "../i18n.ts";
import { canPush, isPushOn, switchPushOff, switchPushOn } from "../push.ts";
import { Problem, useAnswer } from "./answer.tsx";
import { useWork } from "./form.tsx";

/** Switches of the push notifications of this browser. `onAsked`: the browser has asked for the permission. */
export function Push({ onAsked }: { onAsked: () => void }) {
  const client = useClient();
  const ask = useCallback(() => client.ask("get_push", {}), [client]);
  const { answer, failed, again } = useAnswer(ask);
  const { busy, error, run } = useWork();
  if (!canPush())
    return (
      <p className="muted">
        {t(
          "While this page is closed: not available here. On an iPhone or iPad, add the page to the home screen first.",
        )}
      </p>
    );
  const key = answer?.public_key ?? null;
  const own = answer?.subscriptions.findLast(({ current }) => current);
  const on = own !== undefined && isPushOn();
  const change = (work: () => Promise<unknown>) => run(work).then(again).then(onAsked);
  const switchOff = async () => {
    await switchPushOff();
    if (own !== undefined) await client.ask("unsubscribe_push", { subscription_id: own.subscription_id });
  };
  if (answer !== null && key === null) return null;
  return (
    <>
      <Problem text={failed ?? error} />
      <label className="check">
        <input
          type="checkbox"
          checked={on}
          disabled={busy || key === null}
          onChange={() => change(on ? switchOff : () => switchPushOn(client, key ?? "", true))}
        />
        {t("Notify this device while the page is closed")}
      </label>
      {on && (
        <label className="check">
          <input
            type="checkbox"
            checked={own.with_content}
            disabled={busy}
            onChange={() => change(() => switchPushOn(client, key ?? "", !own.with_content))}
          />
          {t("Show who wrote what")}
        </label>
      )}
    </>
  );
}
