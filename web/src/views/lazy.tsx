import { type ComponentType, type ReactNode, useEffect, useState } from "react";
import { m, t } from "../i18n.ts";
import { Panel } from "./Panel.tsx";
import { Dialog } from "./ui.tsx";

/** How long (ms) to wait for an idle page. */
const IDLE_WITHIN = 3000;
const NOT_LOADED = m(
  "This part of the page could not be loaded. Try again when there is a connection, or reload the page.",
);

const loads: (() => Promise<void>)[] = [];

/**
 * A part of the page whose code is loaded later. Once loaded, it is shown in the same frame, so that no key is lost that
 * follows the one that opens it. `missing` is shown if its code cannot be loaded; opening it again tries again.
 */
export function lazy<P extends object>(
  load: () => Promise<ComponentType<P>>,
  missing: (props: P) => ReactNode,
  waiting: () => ReactNode = () => null,
): ComponentType<P> {
  let loaded: ComponentType<P> | null = null;
  const have = async () => {
    loaded ??= await load();
  };
  loads.push(have);
  return function Lazy(props: P) {
    const [Part, setPart] = useState(() => loaded);
    const [failed, setFailed] = useState(false);
    useEffect(() => {
      if (Part !== null) return;
      have().then(
        () => setPart(() => loaded),
        () => setFailed(true),
      );
    }, [Part]);
    if (Part !== null) return <Part {...props} />;
    return failed ? missing(props) : waiting();
  };
}

interface Closable {
  onClose: () => void;
}

export function lazyDialog<P extends Closable>(load: () => Promise<ComponentType<P>>): ComponentType<P> {
  return lazy(load, ({ onClose }) => (
    <Dialog title={t("Not loaded")} onClose={onClose}>
      <p>{t(NOT_LOADED)}</p>
    </Dialog>
  ));
}

export function lazyPanel<P extends Closable>(
  title: string,
  load: () => Promise<ComponentType<P>>,
): ComponentType<P> {
  return lazy(load, ({ onClose }) => (
    <Panel title={t(title)} onClose={onClose}>
      <p className="content" role="alert">
        {t(NOT_LOADED)}
      </p>
    </Panel>
  ));
}

/** What is in a menu. */
export function lazyMenu<P extends object>(load: () => Promise<ComponentType<P>>): ComponentType<P> {
  return lazy(load, () => <p role="alert">{t(NOT_LOADED)}</p>);
}

/** Load the code of all parts while the page is idle. Returns a function that cancels it. */
export function loadRest(): () => void {
  const begin = () => {
    for (const load of loads) load().catch(() => undefined); // it is tried again when the part is opened
  };
  if (!("requestIdleCallback" in window)) {
    const timer = setTimeout(begin, IDLE_WITHIN);
    return () => clearTimeout(timer);
  }
  const idle = requestIdleCallback(begin, { timeout: IDLE_WITHIN });
  return () => cancelIdleCallback(idle);
}
