/** The contract's types as the library uses them. */
import type * as Contract from "./contract.gen.ts";

export type {
  ApplicationEvent,
  CloseReason,
  ErrorCode,
  Member,
  Message,
  MessageAppend,
  Room,
} from "./contract.gen.ts";

/** `streaming`: its author is still writing; `interrupted`: its author stopped without finishing it. */
export type MessageState = Contract.Message["state"];
export type JsonValue = Contract.JsonValue;
export type Data = Record<string, JsonValue>;

type Live = Pick<Contract.Actions, keyof Contract.ClientToServerEvents>;
export type ActionName = keyof Live;
export type Request<A extends ActionName> = Live[A]["request"];
export type Response<A extends ActionName> = Live[A]["response"];

/** Every action of a live connection as a method. Each rejects with a `TidingsError`. */
export type ActionMethods = { readonly [A in ActionName]: (request: Request<A>) => Promise<Response<A>> };

/** The server's events. An application adds its own: `connect<{ "order.paid": { id: number } }>(…)`. */
export type ServerEvents = Contract.Events;

/** An event that an application published; `seq` and `id` are null if it was transient. */
export type Published<Payload = JsonValue> = Omit<Contract.ApplicationEvent, "data"> & { readonly data: Payload };

/** What `client.on` hands over, by the name of the event. */
export type EventMap<MyEvents> = ServerEvents & {
  [Name in Exclude<keyof MyEvents, keyof ServerEvents>]: Published<MyEvents[Name]>;
};
