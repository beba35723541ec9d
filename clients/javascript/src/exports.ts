export { Client, type ClientOptions, type ConnectOptions, type Cursors } from "./client.ts";
export type { Status, Token } from "./connection.ts";
export { type ClientErrorCode, TidingsError } from "./errors.ts";
export type { Kept, Log } from "./log.ts";
export type { FileDraft, Refusal, RoomRef, Unsent, UnsentFile } from "./outbox.ts";
export type { Presence } from "./presence.ts";
export { type ConsumeOptions, Room, type SendOptions } from "./room.ts";
export { type Batch, MemoryStore, type Range, type Row, type Store } from "./store.ts";
export type { MessageStream } from "./stream.ts";
export { cutAndAdd } from "./text.ts";
export type { Timeline, TimelineState } from "./timeline.ts";
export type {
  ActionMethods,
  ActionName,
  ErrorCode,
  EventMap,
  JsonValue,
  Member,
  Message,
  MessageAppend,
  MessageState,
  Published,
  Request,
  Response,
} from "./types.ts";
