import { useEffect } from "react";
import { useClient, useView } from "../context.ts";

/** Loads the receipts of a conversation, at each connect. */
export function useReceipts(room_id: string): void {
  const client = useClient();
  const online = useView((view) => view.status.is === "online");
  const kind = useView((view) => view.state.rooms.get(room_id)?.room.kind);
  useEffect(() => {
    // Without receipts a message is shown as sent; the next connect tries again.
    if (online && (kind === "direct" || kind === "group")) client.load.receipts(room_id).catch(() => undefined);
  }, [client, room_id, online, kind]);
}
