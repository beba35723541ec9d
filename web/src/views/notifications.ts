/** The unread count in the page's title, and the browser's notifications. */
import { useEffect, useRef } from "react";
import { useClient, useView } from "../context.ts";
import type { Message } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { hrefTo, openMessage } from "../location.ts";
import { SERVER_NAME } from "../session.ts";
import { displayNameOf, type State } from "../store.ts";
import { isAhead, nameOf, summaryOf } from "../text.ts";
import { unreadInThreads } from "../threads.ts";
import { counts } from "./rooms.ts";

const SHOWN_AT_ONCE = 3;
/** ms between two titles: the browser redraws part of its window for each. */
const COUNTED_EVERY = 500;

/** Sets the page's title. A component of its own, so that an unread message does not render the page. */
export function Title({ room_id }: { room_id: string | null }): null {
  const unread = useView((view) => {
    let sum = unreadInThreads(view.state.threads);
    for (const held of view.state.rooms.values()) if (counts(held, view.state.me)) sum += held.room.unread;
    return sum;
  });
  const name = useView((view) => {
    const held = room_id === null ? undefined : view.state.rooms.get(room_id);
    return held === undefined ? null : nameOf(held.room, held.members, view.state.me);
  });
  const page = name === null ? SERVER_NAME : `${name} · ${SERVER_NAME}`;
  const written = useRef({ page: "", at: 0 });
  useEffect(() => {
    const write = () => {
      document.title = unread === 0 ? page : `(${unread > 999 ? "999+" : unread}) ${page}`;
      navigator.setAppBadge?.(unread).catch(() => undefined);
      written.current = { page, at: performance.now() };
    };
    const early = page === written.current.page ? written.current.at + COUNTED_EVERY - performance.now() : 0;
    if (early <= 0) return write();
    const timer = setTimeout(write, early);
    return () => clearTimeout(timer);
  }, [unread, page]);
  return null;
}

export function useNotifications(): void {
  const client = useClient();
  useEffect(
    () =>
      client.onMessages((messages) => {
        if (isAhead(client.state.profiles.get(client.me)?.do_not_disturb_until ?? null)) return;
        if (!document.hidden || permission() !== "granted") return;
        const urgent = messages.filter((message) => isWanted(message, client.state));
        for (const message of urgent.slice(-SHOWN_AT_ONCE))
          void show(message, displayNameOf(client.state, message.room_id, message.sender));
      }),
    [client],
  );
  useEffect(() => {
    if (!("serviceWorker" in navigator)) return;
    const listener = (event: MessageEvent) => {
      const target: unknown = event.data?.open;
      if (typeof target === "string") window.location.hash = new URL(target, window.location.href).hash;
    };
    navigator.serviceWorker.addEventListener("message", listener);
    return () => navigator.serviceWorker.removeEventListener("message", listener);
  }, []);
}

/** "unsupported" if the browser has no notifications, or none without HTTPS. */
export function permission(): NotificationPermission | "unsupported" {
  return "Notification" in window && window.isSecureContext ? Notification.permission : "unsupported";
}

export async function askPermission(): Promise<NotificationPermission | "unsupported"> {
  return permission() === "unsupported" ? "unsupported" : Notification.requestPermission();
}

/** Whether to notify of a message, as the user has chosen for the room. */
function isWanted({ room_id, thread, mentions }: Message, { me, rooms, threads }: State): boolean {
  const { notify = "mentions", quiet_until = null } = rooms.get(room_id)?.room.preferences ?? {};
  if (notify === "nothing" || isAhead(quiet_until)) return false;
  return mentions.includes(me) || (thread == null ? notify === "all" : threads.get(thread)?.following === true);
}

async function show(message: Message, sender: string): Promise<void> {
  const title = message.topic_name === null ? sender : t("{sender} in {room}", { sender, room: message.topic_name });
  const open = `./${hrefTo(message.room_id, message.seq, message.thread)}`;
  const options = {
    body: message.content.slice(0, 200) || summaryOf(message, 200),
    tag: message.room_id,
    icon: "icon-192.png",
    data: { open, seq: message.seq },
  };
  const worker = "serviceWorker" in navigator ? await navigator.serviceWorker.getRegistration() : undefined;
  if (worker !== undefined) return worker.showNotification(title, options);
  const shown = new Notification(title, options);
  shown.onclick = () => {
    window.focus();
    openMessage(message);
  };
}
