import { Tooltip, useTooltipStore } from "@ariakit/react";
import { useEffect, useState } from "react";
import { keysOf } from "../text.ts";

/** How long (ms) the pointer rests on an element until its tooltip is shown. */
const AFTER = 300;

interface Tip {
  readonly text: string;
  readonly keys: string | undefined;
}

/**
 * The tooltips of the page: what an element says in `data-tip`, and its key in `data-keys`. One for all of them, because
 * a timeline has many. It repeats the element's label for the eye, so a screen reader does not read it.
 */
export function Tooltips() {
  const store = useTooltipStore({ placement: "top", timeout: 0 });
  const [tip, setTip] = useState<Tip | null>(null);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let over: HTMLElement | null = null;
    const hide = () => {
      clearTimeout(timer);
      over = null;
      store.hide();
    };
    const look = (target: EventTarget | null) => {
      const element = target instanceof Element ? target.closest<HTMLElement>("[data-tip]") : null;
      if (element === over) return;
      hide();
      over = element;
      if (element === null) return;
      timer = setTimeout(() => {
        if (!element.isConnected || element.ariaExpanded === "true") return;
        setTip({ text: element.dataset.tip ?? "", keys: element.dataset.keys });
        store.setAnchorElement(element);
        store.show();
      }, AFTER);
    };
    const pointed = (event: PointerEvent) => event.pointerType === "mouse" && look(event.target);
    const focused = ({ target }: FocusEvent) =>
      look(target instanceof Element && target.matches(":focus-visible:not(input)") ? target : null);
    const listening = new AbortController();
    const { signal } = listening;
    document.addEventListener("pointerover", pointed, { signal });
    document.addEventListener("focusin", focused, { signal });
    for (const event of ["pointerdown", "keydown", "scroll"])
      document.addEventListener(event, hide, { signal, capture: true, passive: true });
    return () => {
      listening.abort();
      clearTimeout(timer);
    };
  }, [store]);
  return (
    <Tooltip store={store} className="tooltip" gutter={6} unmountOnHide aria-hidden="true">
      {tip?.text}
      {tip?.keys !== undefined && <kbd>{keysOf(tip.keys)}</kbd>}
    </Tooltip>
  );
}
