import { useEffect, useState, useSyncExternalStore } from "react";
import { useClient, useView } from "../context.ts";
import type { LinkedFile } from "../contract.gen.ts";
import { linksOf } from "../files.ts";

/** The link to a file; undefined until it is there. */
export function useLink(id: string): LinkedFile | undefined {
  const links = linksOf(useClient());
  const link = useSyncExternalStore(links.subscribe, () => links.of(id));
  const connected = useView(({ status }) => status.is === "online");
  useEffect(() => {
    // The next connection asks again.
    if (connected) links.fresh(id).catch(() => undefined);
  }, [links, id, connected]);
  return link;
}

/** Whether a file could not be loaded, and what to call then: its link may have ended meanwhile. */
export function useRenewal(id: string): { readonly failed: boolean; readonly onError: () => void } {
  const links = linksOf(useClient());
  const [tries, setTries] = useState(0);
  const onError = () => {
    setTries(tries + 1);
    if (tries === 0) links.renew(id).catch(() => undefined);
  };
  return { failed: tries > 1, onError };
}
