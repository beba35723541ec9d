import { useView } from "../context.ts";
import { hueOf, initialsOf } from "../text.ts";
import { lazy } from "./lazy.tsx";

/** The image on an avatar or the sign of a room, by its id. */
export const Picture = lazy(
  () => import("./Picture.tsx").then((part) => part.Picture),
  () => null,
);

/** `quiet`: the user must not be disturbed. */
export function Avatar({
  name,
  small = false,
  online = false,
  quiet = false,
}: {
  name: string;
  small?: boolean;
  online?: boolean;
  quiet?: boolean;
}) {
  const picture = useView(({ state }) => state.pictures.get(name));
  return (
    <span className={`avatar ${small ? "small" : ""}`} style={{ "--hue": hueOf(name) } as object} aria-hidden="true">
      {initialsOf(name)}
      {picture !== undefined && <Picture id={picture} />}
      {(online || quiet) && <span className={quiet ? "dot moon" : "dot"} />}
    </span>
  );
}
