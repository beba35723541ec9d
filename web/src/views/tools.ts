/** The actions on a message, for every part of its row. The same object while the room is open. */
import type { Message } from "../contract.gen.ts";

export interface Tools {
  readonly me: string;
  react(message: Message, emoji: string): void;
  reply(message: Message): void;
  edit(message: Message): void;
  /** Replace the content of one's own message. */
  setContent(message: Message, content: string): void;
  /** Ask the author of a streaming message to stop. Returns whether the request was accepted. */
  stop(message: Message): Promise<boolean>;
  /** Asks for confirmation. */
  remove(message: Message): void;
  /** Asks for the reason. */
  report(message: Message): void;
  copyText(message: Message): void;
  copyLink(message: Message): void;
  /** The room is unread from this message on, until the user comes back to it; not in a thread. */
  readonly markUnread?: (message: Message) => void;
  /** Show the thread of a message; not in a thread. */
  readonly thread?: (message: Message) => void;
  jump(message: Message): void;
  /** Show who a user is, beside the name or avatar that was pressed. */
  person(username: string, anchor: HTMLElement): void;
  retry(client_id: string): void;
  discard(client_id: string): void;
  /** Send an unsent message without one of its files. */
  withoutFile(client_id: string, index: number): void;
  /** The ids of unfolded messages */
  readonly opened: Set<string>;
}

/** The delivery state of the user's own message. */
export type Mark = "sent" | "delivered" | "read";

export const QUICK = ["👍", "❤️", "😂"] as const;

export function mayDelete(message: Message, me: string, moderator: boolean): boolean {
  return message.sender === me || moderator;
}
