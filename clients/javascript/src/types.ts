/** The contract's types as the library uses them, with the actions of streaming messages. */
import type * as Contract from "./contract.gen.ts";

export type { ApplicationEvent, CloseReason, ErrorCode, Member, Room } from "./contract.gen.ts";

/** `streaming`: its author is still writing; `interrupted`: its author stopped without finishing it. */
export type MessageState = "complete" | "streaming" | "interrupted";
export type Message = Contract.Message & { readonly state?: MessageState };
export type JsonValue = Contract.JsonValue;
export type Data = Record<string, JsonValue>;

/** Text of a streaming message: cut its content to `offset` code points, then add `text`. */
export interface MessageAppend {
  readonly room_id: string;
  readonly message_id: string;
  readonly offset: number;
  readonly text: string;
}

interface StreamingActions {
  append: {
    request: { message_id: string; offset: number; text: string };
    response: { offset: number; stored: number; stop: boolean };
  };
  finish: {
    request: { message_id: string; offset?: number; content?: string; data?: Data };
    response: Message;
  };
  stop: { request: { message_id: string }; response: Record<string, never> };
}

type Live = Pick<Contract.Actions, keyof Contract.ClientToServerEvents> & StreamingActions;
export type ActionName = keyof Live;
export type Request<A extends ActionName> = Live[A]["request"];
export type Response<A extends ActionName> = Live[A]["response"];

/** Every action of a live connection as a method. Each rejects with a `TidingsError`. */
export type ActionMethods = { readonly [A in ActionName]: (request: Request<A>) => Promise<Response<A>> };

/** The server's events. An application adds its own: `connect<{ "order.paid": { id: number } }>(…)`. */
export type ServerEvents = Contract.Events & {
  message_append: MessageAppend;
  message_finished: Contract.MessageChanged;
};

/** An event that an application published; `seq` and `id` are null if it was transient. */
export type Published<Payload = JsonValue> = Omit<Contract.ApplicationEvent, "data"> & { readonly data: Payload };

/** What `client.on` hands over, by the name of the event. */
export type EventMap<MyEvents> = ServerEvents & {
  [Name in Exclude<keyof MyEvents, keyof ServerEvents>]: Published<MyEvents[Name]>;
};
