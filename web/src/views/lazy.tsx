import { type ComponentType, useEffect, useState } from "react";
import { Dialog } from "./ui.tsx";

/** A dialog whose code is loaded when it is first opened. If it cannot be, it says so; opened again, it tries again. */
export function lazyDialog<P extends { onClose: () => void }>(
  load: () => Promise<ComponentType<P>>,
): ComponentType<P> {
  let loaded: ComponentType<P> | null = null;
  return function Loaded(props: P) {
    const [Part, setPart] = useState<ComponentType<P> | null>(() => loaded);
    const [failed, setFailed] = useState(false);
    useEffect(() => {
      if (Part !== null) return;
      load().then(
        (part) => {
          loaded = part;
          setPart(() => part);
        },
        () => setFailed(true),
      );
    }, [Part]);
    if (Part !== null) return <Part {...props} />;
    if (!failed) return null;
    return (
      <Dialog title="Not loaded" onClose={props.onClose}>
        <p>This part of the page could not be loaded. Try again when there is a connection.</p>
      </Dialog>
    );
  };
}
