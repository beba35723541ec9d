import { useLink, useRenewal } from "./useLink.ts";

/** An image that covers what it is in; nothing until it is there. */
export function Picture({ id }: { id: string }) {
  const link = useLink(id);
  const { failed, onError } = useRenewal(id);
  const src = link?.preview_url ?? link?.url;
  return failed || src === undefined ? null : <img key={id} src={src} alt="" draggable={false} onError={onError} />;
}
