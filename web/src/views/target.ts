import type { Message } from "../contract.gen.ts";

/** The message that the composer edits or replies to. */
export interface Target {
  readonly kind: "reply" | "edit";
  readonly message: Message;
}
