import { Tab, TabList, TabPanel, TabProvider } from "@ariakit/react";
import { useState } from "react";
import { useClient } from "../context.ts";
import { chooseLanguage, chosenLanguage, LANGUAGES, type Language, m, t } from "../i18n.ts";
import { chooseTheme, loadTheme, type Theme } from "../theme.ts";
import { useWork } from "./form.tsx";
import { askPermission, permission } from "./notifications.ts";
import { Push } from "./Push.tsx";
import {
  Administer,
  Blocked,
  ChangePassword,
  Deactivate,
  DeleteAccount,
  Devices,
  InviteNewcomers,
} from "./SettingsAccount.tsx";
import { Dialog } from "./ui.tsx";

const TABS = [m("Appearance"), m("Devices"), m("Security"), m("Privacy"), m("Account")] as const;

export function Settings({ onClose, onSignOut }: { onClose: () => void; onSignOut: () => void }) {
  return (
    <Dialog title={t("Settings")} onClose={onClose}>
      <TabProvider defaultSelectedId="Appearance">
        <TabList className="tabs" aria-label={t("Settings")}>
          {TABS.map((tab) => (
            <Tab key={tab} id={tab} className="tab">
              {t(tab)}
            </Tab>
          ))}
        </TabList>
        <TabPanel tabId="Appearance" className="settings" unmountOnHide>
          <ThemeChoice />
          <LanguageChoice />
          <Notifications />
        </TabPanel>
        <TabPanel tabId="Devices" className="settings" unmountOnHide>
          <Devices />
        </TabPanel>
        <TabPanel tabId="Security" className="settings" unmountOnHide>
          <ChangePassword />
        </TabPanel>
        <TabPanel tabId="Privacy" className="settings" unmountOnHide>
          <Blocked />
        </TabPanel>
        <TabPanel tabId="Account" className="settings" unmountOnHide>
          <Administer />
          <InviteNewcomers />
          <Export />
          <Deactivate onSignOut={onSignOut} />
          <DeleteAccount onSignOut={onSignOut} />
        </TabPanel>
      </TabProvider>
    </Dialog>
  );
}

const THEMES: readonly { value: Theme; label: string }[] = [
  { value: "system", label: m("Use system setting") },
  { value: "light", label: m("Light") },
  { value: "dark", label: m("Dark") },
];

function ThemeChoice() {
  const [theme, setTheme] = useState(loadTheme);
  const choose = (value: Theme) => {
    chooseTheme(value);
    setTheme(value);
  };
  return (
    <fieldset>
      <legend>{t("Colours")}</legend>
      {THEMES.map(({ value, label }) => (
        <label key={value} className="check">
          <input type="radio" name="theme" checked={theme === value} onChange={() => choose(value)} />
          {t(label)}
        </label>
      ))}
    </fieldset>
  );
}

function LanguageChoice() {
  const chosen = chosenLanguage();
  const choices = [null, ...(Object.keys(LANGUAGES) as Language[])];
  return (
    <fieldset>
      <legend>{t("Language")}</legend>
      {choices.map((choice) => (
        <label key={choice} className="check" lang={choice ?? undefined}>
          <input type="radio" name="language" checked={chosen === choice} onChange={() => chooseLanguage(choice)} />
          {choice === null ? t("Use the browser's language") : LANGUAGES[choice]}
        </label>
      ))}
    </fieldset>
  );
}

const NOTIFICATIONS: Record<ReturnType<typeof permission>, string> = {
  default: m("Notify me of mentions and direct messages when this tab is in the background."),
  granted: m("On. To turn them off, remove the permission in your browser's settings for this page."),
  denied: m("Your browser blocks them. To turn them on, allow them in its settings for this page."),
  unsupported: m("Not available: they need a browser that supports them, and a secure address (https)."),
};

function Notifications() {
  const [allowed, setAllowed] = useState(permission);
  return (
    <section>
      <h3>{t("Notifications")}</h3>
      <p className="muted">{t(NOTIFICATIONS[allowed])}</p>
      {allowed === "default" && (
        <button type="button" className="button" onClick={() => void askPermission().then(setAllowed)}>
          {t("Allow notifications")}
        </button>
      )}
      <Push onAsked={() => setAllowed(permission())} />
    </section>
  );
}

function Export() {
  const client = useClient();
  const { busy, error, run } = useWork();
  const save = () => run(async () => offer(await client.export(), `tidings-${client.me}.jsonl`));
  return (
    <section>
      <h3>{t("Your data")}</h3>
      <p className="muted">
        {t("Everything this server stores about you, in one file with a JSON object per line.")}
      </p>
      {error !== null && (
        <p className="error" role="alert">
          {error}
        </p>
      )}
      <button type="button" className="button" disabled={busy} onClick={save}>
        {busy ? t("Preparing…") : t("Download my data")}
      </button>
    </section>
  );
}

/** Let the browser save a file. */
function offer(file: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
