import "../styles/profile.css";
import { type ReactNode, useRef, useState } from "react";
import { useClient } from "../context.ts";
import { t } from "../i18n.ts";
import { useWork } from "./form.tsx";

/** Pixels of the side of a picture, of which avatars show fewer */
const SIDE = 512;

/** Choose the picture of a user or a room, and see it. Each choice is saved at once. */
export function PictureField({
  shown,
  has,
  save,
}: {
  /** The picture as it is now, or what stands for it */
  shown: ReactNode;
  has: boolean;
  /** Rejects with a `TidingsError`. */
  save: (picture: string | null) => Promise<unknown>;
}) {
  const client = useClient();
  const input = useRef<HTMLInputElement>(null);
  const { busy, error, run, clear } = useWork();
  const [failed, setFailed] = useState(false);
  const choose = async (file: File | undefined) => {
    if (file === undefined) return;
    clear();
    const image = await squared(file).catch(() => null);
    setFailed(image === null);
    if (image !== null) await run(async () => save(await client.upload(file.name, image)));
  };
  return (
    <div className="picture-field">
      {shown}
      <button type="button" className="button" disabled={busy} onClick={() => input.current?.click()}>
        {has ? t("Choose another picture") : t("Choose a picture")}
      </button>
      {has && (
        <button type="button" className="button" disabled={busy} onClick={() => void run(() => save(null))}>
          {t("Remove picture")}
        </button>
      )}
      <input
        ref={input}
        type="file"
        accept="image/*"
        hidden
        aria-label={t("Choose a picture")}
        onChange={({ currentTarget }) => {
          void choose(currentTarget.files?.[0]);
          currentTarget.value = "";
        }}
      />
      {(failed || error !== null) && (
        <p role="alert" className="error">
          {error ?? t("This file is no image that this browser can read.")}
        </p>
      )}
    </div>
  );
}

/** The middle of an image, as a square. Rejects if it is none. */
async function squared(file: File): Promise<Blob> {
  const image = await createImageBitmap(file);
  const side = Math.min(image.width, image.height);
  const shown = Math.min(SIDE, side);
  const canvas = new OffscreenCanvas(shown, shown);
  canvas
    .getContext("2d")
    ?.drawImage(image, (image.width - side) / 2, (image.height - side) / 2, side, side, 0, 0, shown, shown);
  image.close();
  return canvas.convertToBlob({ type: "image/webp", quality: 0.9 });
}
