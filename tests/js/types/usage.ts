// Compiled, never run: what the generated types must allow, and, under @ts-expect-error, what they must refuse.
import { io, type Socket } from "socket.io-client";

import type {
  ActionError,
  Actions,
  Answer,
  ApplicationEvent,
  ClientToServerEvents,
  CloseReason,
  ConnectAuth,
  ErrorCode,
  Events,
  History,
  Message,
  Room,
  RoomRef,
  ServerToClientEvents,
} from "./contract.ts";

const auth: ConnectAuth = { token: "…", device: "laptop", cursors: { "a room": 41 } };
const socket: Socket<ServerToClientEvents, ClientToServerEvents> = io("http://127.0.0.1:8000", { auth });

// -- events

socket.on("message", (message) => {
  const seq: number = message.seq;
  const by: Record<string, string[]> = message.reactions;
  // @ts-expect-error: null in a conversation
  const topic: string = message.topic_name;
  // @ts-expect-error: no such field
  void message.text;
  void [seq, by, topic];
});
socket.on("closing", ({ reason, reconnect }) => {
  const why: CloseReason = reason;
  const back: boolean = reconnect;
  // @ts-expect-error: no such reason
  if (reason === "bored") return;
  void [why, back];
});
socket.on("member", ({ seq }) => {
  // @ts-expect-error: left out in public topics
  const certain: number = seq;
  void certain;
});
// @ts-expect-error: no such event
socket.on("massage", () => {});

// -- events of an application, as docs/protocol.md declares them

interface OrderEvents {
  "order.paid": (event: ApplicationEvent & { data: { id: number } }) => void;
}
const orders: Socket<ServerToClientEvents & OrderEvents, ClientToServerEvents> = io("http://127.0.0.1:8000", { auth });

orders.on("order.paid", ({ room_id, seq, data }) => {
  const id: number = data.id;
  // @ts-expect-error: left out if it is transient
  const certain: number = seq;
  void [room_id, id, certain];
});
orders.on("message", ({ seq }) => void seq);
// @ts-expect-error: not declared
orders.on("order.lost", () => {});

// -- actions

socket.emit("message", { topic_name: "noticias", content: "Hola", client_id: "hola-1" }, (answer) => {
  if (answer.ok) {
    const message: Message = answer.data;
    // @ts-expect-error: it succeeded
    void answer.error;
    void message;
  } else {
    const error: ActionError = answer.error;
    const code: ErrorCode = error.code;
    // @ts-expect-error: no such code
    if (code === "teapot") return;
    // @ts-expect-error: it failed
    void answer.data;
  }
});
socket.emit("suscribe", { topic_name: "noticias" }, (answer: Answer<Room>) => void answer);
socket.emit("logout", {}, (answer) => void answer.ok);
// @ts-expect-error: an action takes an acknowledgement
socket.emit("message", { topic_name: "noticias", content: "Hola" });
// @ts-expect-error: no content
socket.emit("message", { topic_name: "noticias" }, () => {});
// @ts-expect-error: no such action
socket.emit("shout", {}, () => {});
// @ts-expect-error: of HTTP alone
socket.emit("register", { username: "omar", password: "correct horse" }, () => {});
// @ts-expect-error: it takes nothing
socket.emit("logout", { now: true }, () => {});

async function acknowledged(): Promise<number> {
  const answer = await socket.emitWithAck("history", { room_id: "a room", before: 7 });
  if (!answer.ok) throw new Error(answer.error.message);
  // @ts-expect-error: there may be no first
  const first: Message = answer.data.messages[0];
  void first;
  // After timeout() the client itself gives `any` here: name the type.
  const again: Answer<History> = await socket.timeout(10_000).emitWithAck("history", { topic_name: "noticias" });
  return again.ok ? again.data.messages.length : 0;
}
socket.timeout(10_000).emit("read", { username: "diego", seq: 7 }, (late, answer) => {
  const left: number = !late && answer.ok ? answer.data.unread : 0;
  void left;
});
void acknowledged;

// -- a room reference

const byId: RoomRef = { room_id: "a room" };
const byName: RoomRef = { topic_name: "noticias" };
const byUser: RoomRef = { username: "diego", room_id: null };
// @ts-expect-error: one of the three
const none: RoomRef = {};
// @ts-expect-error: only one of the three
const two: RoomRef = { room_id: "a room", username: "diego" };
// @ts-expect-error: of `invite`, the room is one of two
socket.emit("invite", { username: "diego" }, () => {});
socket.emit("invite", { topic_name: "secreto", username: "diego" }, () => {});
void [byId, byName, byUser, none, two];

// -- the maps

type Sent = Actions["message"]["response"];
const sent: (message: Message) => Sent = (message) => message;
const token: (answer: Actions["login"]["response"]) => string = ({ token }) => token;
const handlers: { [E in keyof Events]: (payload: Events[E]) => void } = {} as ServerToClientEvents;
void [sent, token, handlers];
