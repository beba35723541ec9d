import { Component, type ReactNode } from "react";
import { Database } from "../database.ts";
import { loadSession } from "../session.ts";

/** Shown instead of the page when that has come upon an error of its own, and could not go on. */
export class Crash extends Component<{ children: ReactNode }, { crashed: boolean }> {
  override state = { crashed: false };

  static getDerivedStateFromError(): { crashed: boolean } {
    return { crashed: true };
  }

  override render(): ReactNode {
    if (!this.state.crashed) return this.props.children;
    return (
      <main className="nothing" role="alert">
        <h1>Something in this page went wrong.</h1>
        <p>Nothing is lost: what waits to be sent is kept, and is sent once the page is back.</p>
        <button type="button" className="button primary" onClick={() => window.location.reload()}>
          Reload
        </button>
        <button type="button" className="button" onClick={() => void anew()}>
          Reload, and load all rooms anew
        </button>
      </main>
    );
  }
}

/** As a device that holds none of the rooms. */
async function anew(): Promise<void> {
  const session = loadSession();
  if (session !== null) await Database.forgetRooms(session.username).catch(() => undefined);
  window.location.reload();
}
