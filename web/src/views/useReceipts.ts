import { useEffect } from "react";
import { useClient, useView } from "../context.ts";

/** Has how far the others of a conversation have received and read it; asked for anew with each connection. */
export function useReceipts(room_id: string): void {
  const client = useClient();
  const online = useView((view) => view.status.is === "online");
  const kind = useView((view) => view.state.rooms.get(room_id)?.room.kind);
  useEffect(() => {
    // Without them a message is shown as sent; the next connection asks again.
    if (online && (kind === "direct" || kind === "group")) client.load.receipts(room_id).catch(() => undefined);
  }, [client, room_id, online, kind]);
}
