import { type ReactNode, useMemo, useRef, useState } from "react";
import { useClient } from "../context.ts";
import { t } from "../i18n.ts";
import { linkTo, openMessage } from "../location.ts";
import { reasonOf } from "../text.ts";
import { copyToClipboard } from "./clipboard.ts";
import { lazyDialog } from "./lazy.tsx";
import type { Asked } from "./MessageDialog.tsx";
import type { Target } from "./target.ts";
import type { Tools } from "./tools.ts";

const MessageDialog = lazyDialog(() => import("./MessageDialog.tsx").then((part) => part.MessageDialog));

interface Uses {
  /** The composer is to edit a message, or to reply to it. */
  readonly onTarget: (target: Target) => void;
  readonly tell: (text: string) => void;
  readonly onPerson: Tools["person"];
  /** Show the thread of a message beside the room; left out in a thread. */
  readonly onThread?: (id: string) => void;
}

/** The tools of a room's messages, or of a thread's; and the dialog that one of them has opened. */
export function useTools(room_id: string, uses: Uses): { tools: Tools; dialog: ReactNode } {
  const client = useClient();
  const [about, setAbout] = useState<Asked | null>(null);
  const latest = useRef(uses);
  latest.current = uses;
  const inThread = uses.onThread === undefined;
  const tools = useMemo((): Tools => {
    const tell = (text: string) => latest.current.tell(text);
    const onTarget = (target: Target) => latest.current.onTarget(target);
    const inRoom: Pick<Tools, "thread" | "markUnread"> = {
      thread: ({ id }) => latest.current.onThread?.(id),
      markUnread: ({ seq }) => {
        client.ask("mark_unread", { room_id, seq }).catch((error) => tell(reasonOf(error)));
      },
    };
    const copy = async (text: string, done: string) =>
      tell((await copyToClipboard(text)) ? done : t("The browser does not allow this page to copy."));
    return {
      me: client.me,
      react: (message, emoji) => {
        const remove = message.reactions[emoji]?.includes(client.me) ?? false;
        client.ask("react", { message_id: message.id, emoji, remove }).catch((error) => tell(reasonOf(error)));
      },
      reply: (message) => onTarget({ kind: "reply", message }),
      edit: (message) => onTarget({ kind: "edit", message }),
      setContent: ({ id }, content) => {
        client.ask("edit", { message_id: id, content }).catch((error) => tell(reasonOf(error)));
      },
      stop: (message) =>
        client.ask("stop", { message_id: message.id }).then(
          () => true,
          (error) => {
            tell(reasonOf(error));
            return false;
          },
        ),
      remove: (message) => setAbout({ task: "delete", message }),
      report: (message) => setAbout({ task: "report", message }),
      copyText: (message) => void copy(message.content, t("The text was copied.")),
      copyLink: (message) => {
        const room = client.room(room_id)?.room;
        if (room !== undefined) void copy(linkTo(room, message.seq, message.thread), t("The link was copied."));
      },
      ...(inThread ? {} : inRoom),
      jump: openMessage,
      person: (username, anchor) => latest.current.onPerson(username, anchor),
      retry: (client_id) => void client.retryUnsent(client_id),
      discard: (client_id) => void client.discardUnsent(client_id),
      withoutFile: (client_id, index) => void client.withoutFile(client_id, index),
      opened: new Set(),
    };
  }, [client, room_id, inThread]);
  return { tools, dialog: about !== null && <MessageDialog {...about} onClose={() => setAbout(null)} /> };
}
