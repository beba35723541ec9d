import { Component, type ReactNode } from "react";
import { t } from "../i18n.ts";
import { loadSession } from "../session.ts";

/** Shown instead of the page after an error in its own code. */
export class Crash extends Component<{ children: ReactNode }, { crashed: boolean }> {
  override state = { crashed: false };

  static getDerivedStateFromError(): { crashed: boolean } {
    return { crashed: true };
  }

  override render(): ReactNode {
    if (!this.state.crashed) return this.props.children;
    return (
      <main className="nothing" role="alert">
        <h1>{t("Something went wrong on this page.")}</h1>
        <p>{t("Nothing is lost: unsent messages are kept, and will be sent after you reload.")}</p>
        <button type="button" className="button primary" onClick={() => window.location.reload()}>
          {t("Reload")}
        </button>
        <button type="button" className="button" onClick={() => void anew()}>
          {t("Reload, and fetch all rooms again")}
        </button>
      </main>
    );
  }
}

/** Restart like a device without rooms. */
async function anew(): Promise<void> {
  const session = loadSession();
  const forget = async (username: string) => (await import("../cache.ts")).forgetRooms(username);
  if (session !== null) await forget(session.username).catch(() => undefined);
  window.location.reload();
}
