/** What one may do with a message, wherever in a row it is asked for. The same object as long as the room is open. */
import type { Message } from "../contract.gen.ts";

export interface Tools {
  readonly me: string;
  react(message: Message, emoji: string): void;
  reply(message: Message): void;
  edit(message: Message): void;
  /** Asks first. */
  remove(message: Message): void;
  copyText(message: Message): void;
  copyLink(message: Message): void;
  jump(seq: number): void;
  retry(client_id: string): void;
  discard(client_id: string): void;
  /** Long messages that were unfolded */
  readonly opened: Set<string>;
}

/** How far one's own message has got. */
export type Mark = "sent" | "delivered" | "read";

export const QUICK = ["👍", "❤️", "😂"] as const;

export function mayDelete(message: Message, me: string, moderator: boolean): boolean {
  return message.sender === me || moderator;
}
