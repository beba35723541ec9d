import { Dialog, DialogDismiss, DialogHeading } from "@ariakit/react";
import { ChevronLeft, ChevronRight, X } from "lucide-react";
import { type KeyboardEvent, useEffect, useMemo, useRef, useState } from "react";
import { useClient } from "../context.ts";
import type { Attachment, Message } from "../contract.gen.ts";
import { imagesOf } from "../files.ts";
import { t } from "../i18n.ts";
import { segmentAt } from "../timeline.ts";
import { SaveLink } from "./Files.tsx";
import { IconButton } from "./ui.tsx";
import { useLink } from "./useLink.ts";

/** The state of the entry of the history that Back leaves */
const VIEWER = "viewer";

/** One image in the whole window; the arrows lead to the others that are around its message. */
export function Viewer({ message, first, onClose }: { message: Message; first: Attachment; onClose: () => void }) {
  const client = useClient();
  useBack(onClose);
  // As they were when it was opened: what arrives meanwhile does not move it.
  // biome-ignore lint/correctness/useExhaustiveDependencies: see above
  const images = useMemo(() => {
    const segments = message.thread == null ? client.room(message.room_id)?.segments : undefined;
    const around = imagesOf((segments && segmentAt(segments, message.seq)?.messages) ?? [message]);
    return around.some(({ id }) => id === first.id) ? around : imagesOf([message]);
  }, []);
  const [at, setAt] = useState(() => images.findIndex(({ id }) => id === first.id));
  const [whole, setWhole] = useState(true);
  const shown = images[at] ?? first;
  const show = (next: number) => {
    if (images[next] === undefined) return;
    setAt(next);
    setWhole(true);
  };
  const pressed = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isLeft = event.key === "ArrowLeft";
    const rightToLeft = getComputedStyle(event.currentTarget).direction === "rtl";
    if (isLeft || event.key === "ArrowRight") show(isLeft === rightToLeft ? at + 1 : at - 1);
    else if (event.key === "Home") show(0);
    else if (event.key === "End") show(images.length - 1);
    else if (event.key === "+" || event.key === "-") setWhole(event.key === "-");
    else return;
    event.preventDefault();
  };
  return (
    <Dialog open onClose={onClose} className="viewer" backdrop={false} unmountOnHide onKeyDown={pressed}>
      <header>
        <DialogHeading render={(props) => <h2 {...props} dir="auto" className="ellipsis grow" />}>
          {shown.name}
        </DialogHeading>
        {images.length > 1 && (
          <span className="muted" role="status">
            {t("{number} of {count}", { number: at + 1, count: images.length })}
          </span>
        )}
        <SaveLink file={shown} />
        <DialogDismiss className="icon-button" aria-label={t("Close")} data-tip={t("Close")}>
          <X size={20} />
        </DialogDismiss>
      </header>
      <Whole file={shown} whole={whole} onWhole={setWhole} />
      {shown.alt !== null && (
        <p className="alt" dir="auto">
          {shown.alt}
        </p>
      )}
      {images.length > 1 && (
        <>
          <IconButton
            className="step back"
            label={t("Previous image")}
            aria-disabled={at === 0}
            onClick={() => show(at - 1)}
          >
            <ChevronLeft size={24} className="points" />
          </IconButton>
          <IconButton
            className="step on"
            label={t("Next image")}
            aria-disabled={at === images.length - 1}
            onClick={() => show(at + 1)}
          >
            <ChevronRight size={24} className="points" />
          </IconButton>
        </>
      )}
    </Dialog>
  );
}

/** Leave by the browser's Back: on a phone, that is the way out. */
function useBack(leave: () => void): void {
  const latest = useRef(leave);
  latest.current = leave;
  useEffect(() => {
    history.pushState(VIEWER, "");
    const left = () => latest.current();
    window.addEventListener("popstate", left);
    return () => {
      window.removeEventListener("popstate", left);
      if (history.state === VIEWER) history.back();
    };
  }, []);
}

/** The image as large as the window allows, or in its own size. */
function Whole({ file, whole, onWhole }: { file: Attachment; whole: boolean; onWhole: (whole: boolean) => void }) {
  const link = useLink(file.id);
  const { width, height } = file;
  return (
    <button
      type="button"
      className={`picture ${whole ? "" : "own-size"}`}
      aria-label={whole ? t("Show in its own size") : t("Show the whole image")}
      onClick={() => onWhole(!whole)}
    >
      {link !== undefined && (
        <img
          key={file.id} // the one before must not stay until the next has come
          src={link.url}
          alt={file.alt ?? file.name}
          {...(width === null || height === null ? {} : { width, height })}
          // Until the image is there, its preview is.
          style={whole && link.preview_url !== null ? { backgroundImage: `url("${link.preview_url}")` } : undefined}
        />
      )}
    </button>
  );
}
