import { useCallback, useId, useState } from "react";
import type { Registration as Mode, RegistrationLink } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { addressWith } from "../location.ts";
import { momentOf } from "../text.ts";
import { Problem, useAnswer } from "../views/answer.tsx";
import { Field, useWork } from "../views/form.tsx";
import { Ago, type Column, countOf, Make, type Page, Records, useAsk, WithNew } from "./parts.tsx";

const MODES: readonly Mode["registration"][] = ["open", "invite", "closed"];

function labelOf(mode: Mode["registration"]): string {
  return { open: t("Anyone"), invite: t("Whoever has an invitation link"), closed: t("Nobody") }[mode];
}

export function Registration() {
  return (
    <>
      <WhoMayRegister />
      <WithNew
        label={t("Create an invitation link…")}
        list={(key) => <Links key={key} />}
        dialog={(close) => <NewLink onClose={close} />}
      />
    </>
  );
}

function WhoMayRegister() {
  const ask = useAsk();
  const id = useId();
  const { answer, failed, again } = useAnswer(useCallback(() => ask("get_registration", {}), [ask]));
  const { error, run } = useWork();
  const [chosen, setChosen] = useState<Mode["registration"] | null>(null);
  const [done, setDone] = useState(false);
  const choose = async (registration: Mode["registration"]) => {
    setChosen(registration);
    setDone(false);
    setDone(await run(() => ask("set_registration", { registration })));
    await again();
    setChosen(null);
  };
  return (
    <section>
      <h2>{t("Registration")}</h2>
      <Problem text={failed ?? error} />
      <fieldset>
        <legend>{t("Who may create an account")}</legend>
        {MODES.map((mode) => (
          <label key={mode} className="check">
            <input
              type="radio"
              name={id}
              checked={(chosen ?? answer?.registration) === mode}
              disabled={answer === null}
              onChange={() => void choose(mode)}
            />
            {labelOf(mode)}
          </label>
        ))}
      </fieldset>
      <p role="status" className={done ? "muted" : "hidden"}>
        {done ? t("Saved.") : ""}
      </p>
    </section>
  );
}

function Links() {
  const ask = useAsk();
  const load = useCallback(
    async (page: Page) => {
      const { links, next } = await ask("get_registration_links", page);
      return { items: links, next };
    },
    [ask],
  );
  const columns: readonly Column<RegistrationLink>[] = [
    { label: t("Created by"), cell: ({ username }) => username ?? t("the command line") },
    { label: t("Created"), cell: ({ created_at }) => <Ago at={created_at} /> },
    { label: t("Valid until"), cell: ({ expires_at }) => momentOf(expires_at) },
    { label: t("Uses left"), cell: ({ uses_left }) => countOf(uses_left) },
  ];
  return (
    <Records
      title={t("Invitation links")}
      load={load}
      keyOf={({ link_id }) => link_id}
      columns={columns}
      none={t("There are no invitation links.")}
      actions={({ link_id, created_at }, { busy, run }) => (
        <button
          type="button"
          className="button"
          disabled={busy}
          aria-label={t("Delete the link of {time}", { time: momentOf(created_at) })}
          onClick={() => run(() => ask("delete_registration_link", { link_id }), t("The link is deleted."))}
        >
          {t("Delete")}
        </button>
      )}
    />
  );
}

function NewLink({ onClose }: { onClose: () => void }) {
  const ask = useAsk();
  const [days, setDays] = useState("7");
  const [uses, setUses] = useState("1");
  const work = async () => {
    const fields = { expires_in: Number(days) * 86_400, uses: Number(uses) };
    return addressWith("invitation", (await ask("create_registration_link", fields)).code);
  };
  return (
    <Make
      title={t("New invitation link")}
      does={t("Create a link")}
      made={t("Link")}
      note={t("Whoever has the link can create an account. It is not shown again.")}
      work={work}
      onClose={onClose}
    >
      <Field
        label={t("Valid for days")}
        type="number"
        min={1}
        value={days}
        onChange={(event) => setDays(event.target.value)}
      />
      <Field
        label={t("How many people may use it")}
        type="number"
        min={1}
        value={uses}
        onChange={(event) => setUses(event.target.value)}
      />
    </Make>
  );
}
