import "../styles/files.css";
import { Download, File as FileIcon, X } from "lucide-react";
import { useEffect, useState } from "react";
import { useClient } from "../context.ts";
import type { Attachment, Message } from "../contract.gen.ts";
import { isImage, linksOf, looksLikeImage, sizeOf } from "../files.ts";
import { t } from "../i18n.ts";
import type { Unsent } from "../unsent.ts";
import type { Tools } from "./tools.ts";
import { IconButton } from "./ui.tsx";
import { useLink, useRenewal } from "./useLink.ts";
import { Viewer } from "./Viewer.tsx";

/** An image is shown at most so large (px), and a flat or tall one so small. */
const [WIDEST, TALLEST, LEAST] = [400, 320, 48] as const;

/** The files of a message; of an unsent one, with how far they have come. */
export function Files({ message, unsent, tools }: { message: Message; unsent: Unsent | null; tools: Tools }) {
  const [viewed, setViewed] = useState<Attachment | null>(null);
  if (unsent !== null)
    return (
      <ul className="files" aria-label={t("Files")}>
        {unsent.files.map((file, index) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: a file is its place in the message
          <li key={`${index} ${file.name} ${unsent.files.length}`}>
            <UnsentFile unsent={unsent} index={index} onCancel={() => tools.withoutFile(unsent.client_id, index)} />
          </li>
        ))}
      </ul>
    );
  const files = message.files ?? [];
  const images = files.filter(isImage);
  return (
    // A screen reader has announced the message.
    <div className="files" aria-live="off">
      {images.length > 0 && (
        <div className={images.length === 1 ? "image" : "images"}>
          {images.map((file) => (
            <Image key={file.id} file={file} alone={images.length === 1} onOpen={() => setViewed(file)} />
          ))}
        </div>
      )}
      {files
        .filter((file) => !isImage(file))
        .map((file) => (
          <OtherFile key={file.id} file={file} />
        ))}
      {viewed !== null && <Viewer message={message} first={viewed} onClose={() => setViewed(null)} />}
    </div>
  );
}

function Image({ file, alone, onOpen }: { file: Attachment; alone: boolean; onOpen: () => void }) {
  const link = useLink(file.id);
  const { failed, onError } = useRenewal(file.id);
  const { width, height } = shownSize(file);
  const src = file.type === "image/gif" ? link?.url : (link?.preview_url ?? link?.url);
  return (
    <button
      type="button"
      className="tile"
      style={alone ? { width, aspectRatio: `${width} / ${height}` } : undefined}
      aria-label={t("Show {name}", { name: file.alt ?? file.name })}
      onClick={onOpen}
    >
      {failed ? (
        <span className="muted small">{t("This image could not be loaded.")}</span>
      ) : (
        src !== undefined && <img src={src} alt={file.alt ?? ""} draggable={false} onError={onError} />
      )}
    </button>
  );
}

/** The size of an image that is alone, in px of the page. */
function shownSize({ width, height }: Pick<Attachment, "width" | "height">): {
  readonly width: number;
  readonly height: number;
} {
  const [wide, tall] = [width ?? 1, height ?? 1];
  const scale = Math.min(1, WIDEST / wide, TALLEST / tall);
  return { width: Math.max(LEAST, Math.round(wide * scale)), height: Math.max(LEAST, Math.round(tall * scale)) };
}

function OtherFile({ file }: { file: Attachment }) {
  const link = useLink(file.id);
  const { failed, onError } = useRenewal(file.id);
  const [kind] = file.type.split("/");
  return (
    <div className="other-file">
      {kind === "video" && !failed && (
        // biome-ignore lint/a11y/useMediaCaption: what users send has no captions
        <video src={link?.url} controls preload="metadata" aria-label={file.name} onError={onError} />
      )}
      {kind === "audio" && !failed && (
        // biome-ignore lint/a11y/useMediaCaption: see above
        <audio src={link?.url} controls preload="metadata" aria-label={file.name} onError={onError} />
      )}
      <div className="file-card">
        <FileIcon size={20} aria-hidden="true" />
        <FileName file={file} />
        <SaveLink file={file} />
      </div>
    </div>
  );
}

export function FileName({ file }: { file: Pick<Attachment, "name" | "size"> }) {
  return (
    <span className="grow">
      <bdi className="name" data-tip={file.name}>
        {file.name}
      </bdi>
      <span className="muted small">{sizeOf(file.size)}</span>
    </span>
  );
}

export function SaveLink({ file }: { file: Attachment }) {
  const links = linksOf(useClient());
  const link = useLink(file.id);
  const label = t("Save {name}", { name: file.name });
  const save = async (event: { preventDefault: () => void; currentTarget: HTMLAnchorElement }) => {
    const { currentTarget: anchor } = event;
    if (link !== undefined && links.isGood(file.id)) return; // the browser follows the link
    event.preventDefault();
    const fresh = await links.fresh(file.id).catch(() => undefined);
    if (fresh === undefined) return;
    anchor.href = fresh.url;
    anchor.click();
  };
  return (
    <a
      className="icon-button"
      href={link?.url}
      download={file.name}
      target="_blank"
      rel="noopener"
      aria-label={label}
      data-tip={label}
      onClick={(event) => void save(event)}
    >
      <Download size={18} />
    </a>
  );
}

function UnsentFile({ unsent, index, onCancel }: { unsent: Unsent; index: number; onCancel: () => void }) {
  const file = unsent.files[index];
  const src = useContent(unsent, index);
  const [size, setSize] = useState<{ width: number; height: number } | null>(null);
  if (file === undefined) return null;
  const label = t("Do not send {name}", { name: file.name });
  const alone = unsent.files.filter(looksLikeImage).length === 1;
  const { width, height } = shownSize(size ?? { width: null, height: null });
  return (
    <>
      {src !== null && alone && (
        // In the place that it will have, so that nothing moves when it is sent
        <div
          className="tile waiting"
          style={size === null ? undefined : { width, aspectRatio: `${width} / ${height}` }}
        >
          <img
            src={src}
            alt=""
            onLoad={({ currentTarget: { naturalWidth, naturalHeight } }) =>
              setSize({ width: naturalWidth, height: naturalHeight })
            }
          />
        </div>
      )}
      <div className="file-card">
        {src === null ? <FileIcon size={20} aria-hidden="true" /> : <img src={src} alt="" />}
        <FileName file={file} />
        {unsent.refused === null && (
          <progress max={file.size} value={file.sent} aria-label={t("{name} is being sent", { name: file.name })} />
        )}
        <IconButton
          label={label}
          onClick={({ currentTarget }) => {
            currentTarget.closest("article")?.focus();
            onCancel();
          }}
        >
          <X size={16} />
        </IconButton>
      </div>
    </>
  );
}

/** The address of an unsent image in this page; null: there is none. */
function useContent(unsent: Unsent, index: number): string | null {
  const [src, setSrc] = useState<string | null>(null);
  const { client_id, contentOf } = unsent;
  const shown = looksLikeImage(unsent.files[index] ?? { type: "" });
  // biome-ignore lint/correctness/useExhaustiveDependencies: progress does not change the content
  useEffect(() => {
    if (!shown) return;
    let url: string | null = null;
    let ended = false;
    void contentOf(index).then((content) => {
      if (content === undefined || ended) return;
      url = URL.createObjectURL(content);
      setSrc(url);
    });
    return () => {
      ended = true;
      if (url !== null) URL.revokeObjectURL(url);
    };
  }, [client_id, index, shown]);
  return src;
}
