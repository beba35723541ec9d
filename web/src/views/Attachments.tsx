import "../styles/files.css";
import { File as FileIcon, Paperclip, X } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { looksLikeImage, sizeOf } from "../files.ts";
import { n, t } from "../i18n.ts";
import { IconButton } from "./ui.tsx";
import type { Attached, SetAttached } from "./useAttached.ts";

/** The server's limit for one message */
const MOST = 10;
/** How long (ms) after the last sign of a drag it counts as over */
const DRAG_ENDS = 250;
let ids = 0;

interface Props {
  attached: readonly Attached[];
  onChange: SetAttached;
  /** Why something is not attached */
  onRefused: (why: string) => void;
}

/** The button that picks files; on a phone, also from the camera. */
export function AttachButton(props: Props) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <IconButton label={t("Attach files")} onClick={() => input.current?.click()}>
        <Paperclip size={19} />
      </IconButton>
      <input
        ref={input}
        type="file"
        multiple
        hidden
        aria-label={t("Attach files")}
        onChange={({ currentTarget }) => {
          void attach([...(currentTarget.files ?? [])], props);
          currentTarget.value = "";
        }}
      />
    </>
  );
}

/** The chosen files above the box. Files that are dropped or pasted come here, too. */
export function Attachments({ thread, ...props }: Props & { thread: string | undefined }) {
  const dragged = useDropped(thread !== undefined, props);
  const { attached, onChange } = props;
  return (
    <>
      {dragged && <div className="drop">{t("Drop the files to attach them")}</div>}
      {attached.length > 0 && (
        <ul className="chosen" aria-label={n("{count} file", "{count} files", attached.length)}>
          {attached.map((one) => (
            <li key={one.id}>
              <Chosen
                attached={one}
                onAlt={(alt) =>
                  onChange((all) => all.map((other) => (other.id === one.id ? { ...one, alt } : other)))
                }
                onRemove={() => onChange((all) => all.filter(({ id }) => id !== one.id))}
              />
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function Chosen({
  attached: { content, alt },
  onAlt,
  onRemove,
}: {
  attached: Attached;
  onAlt: (alt: string) => void;
  onRemove: () => void;
}) {
  const src = useAddress(content);
  return (
    <div className="file-card">
      {src === null ? <FileIcon size={20} aria-hidden="true" /> : <img src={src} alt="" />}
      <span className="grow">
        <bdi className="name" data-tip={content.name}>
          {content.name}
        </bdi>
        {src === null ? (
          <span className="muted small">{sizeOf(content.size)}</span>
        ) : (
          <input
            className="input"
            value={alt}
            maxLength={1000}
            placeholder={t("Describe the image")}
            aria-label={t("Description of {name}", { name: content.name })}
            onChange={({ currentTarget }) => onAlt(currentTarget.value)}
          />
        )}
      </span>
      <IconButton
        label={t("Remove {name}", { name: content.name })}
        onClick={({ currentTarget }) => {
          // This button goes, and would take the focus with it.
          currentTarget.closest(".composer")?.querySelector("textarea")?.focus();
          onRemove();
        }}
      >
        <X size={16} />
      </IconButton>
    </div>
  );
}

/** The address in this page of an image; null: it is none. */
function useAddress(content: File): string | null {
  const [src, setSrc] = useState<string | null>(null);
  useEffect(() => {
    if (!looksLikeImage(content)) return;
    const url = URL.createObjectURL(content);
    setSrc(url);
    return () => URL.revokeObjectURL(url);
  }, [content]);
  return src;
}

/** Take files that are dropped or pasted. Returns whether files are dragged over the page. */
function useDropped(inThread: boolean, props: Props): boolean {
  const [dragged, setDragged] = useState(false);
  const latest = useRef(props);
  latest.current = props;
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const isMine = ({ target }: Event) => {
      const panel = target instanceof Element ? target.closest(".panel") : null;
      return (panel?.querySelector(".composer") != null) === inThread;
    };
    const over = (event: DragEvent) => {
      if (!hasFiles(event.dataTransfer)) return;
      clearTimeout(timer);
      setDragged(isMine(event));
      timer = setTimeout(() => setDragged(false), DRAG_ENDS);
      if (isMine(event)) event.preventDefault();
    };
    const dropped = (event: DragEvent) => {
      setDragged(false);
      if (!hasFiles(event.dataTransfer) || !isMine(event)) return;
      event.preventDefault();
      void attach(filesOf(event.dataTransfer), latest.current);
    };
    const pasted = (event: ClipboardEvent) => {
      // A copied table has both text and an image: paste the text.
      const { clipboardData } = event;
      if (!hasFiles(clipboardData) || clipboardData?.types.includes("text/plain") || !isMine(event)) return;
      event.preventDefault();
      void attach(filesOf(clipboardData), latest.current);
    };
    // Before `useNoFiles`, which refuses what nobody has taken.
    window.addEventListener("dragover", over, true);
    window.addEventListener("drop", dropped, true);
    window.addEventListener("paste", pasted, true);
    return () => {
      clearTimeout(timer);
      window.removeEventListener("dragover", over, true);
      window.removeEventListener("drop", dropped, true);
      window.removeEventListener("paste", pasted, true);
    };
  }, [inThread]);
  return dragged;
}

function hasFiles(data: DataTransfer | null): boolean {
  return data?.types.includes("Files") === true;
}

/** The files of a drop, as long as its event lasts; of a folder, there is none. */
function filesOf(data: DataTransfer | null): File[] {
  return [...(data?.items ?? [])].flatMap((item) => {
    const file = item.kind === "file" && item.webkitGetAsEntry?.()?.isDirectory !== true ? item.getAsFile() : null;
    return file === null ? [] : [file];
  });
}

async function attach(files: readonly File[], { attached, onChange, onRefused }: Props): Promise<void> {
  if (files.length === 0) return onRefused(t("A folder cannot be attached."));
  if (attached.length + files.length > MOST)
    return onRefused(t("A message can have up to {count} files.", { count: MOST }));
  const limit = await limitOf();
  const large = files.find(({ size }) => size > limit);
  if (large !== undefined)
    return onRefused(t("{name} is larger than {size}.", { name: large.name, size: sizeOf(limit) }));
  // A file of no bytes cannot be told from one that this page may not read.
  const empty = files.find(({ size }) => size === 0);
  if (empty !== undefined) return onRefused(t("{name} is empty.", { name: empty.name }));
  onChange((before) => [...before, ...files.map((content) => ({ id: ++ids, content, alt: "" }))]);
}

let known: Promise<number> | null = null;

/** The most bytes that a file may have, as the server says (tus 1.0, `Tus-Max-Size`); without a connection, it refuses later. */
function limitOf(): Promise<number> {
  known ??= fetch("api/uploads", { method: "OPTIONS" })
    .then(({ headers }) => Number(headers.get("tus-max-size") ?? Number.POSITIVE_INFINITY))
    .catch(() => {
      known = null;
      return Number.POSITIVE_INFINITY;
    });
  return known;
}
