import { useView } from "../context.ts";
import { displayNameOf } from "../store.ts";

/** The name of a user, as the members of a room see it. */
export function DisplayName({ room_id, username }: { room_id: string; username: string }) {
  return <bdi>{useView(({ state }) => displayNameOf(state, room_id, username))}</bdi>;
}
