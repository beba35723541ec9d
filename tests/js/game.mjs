// A stock client in an application's namespace, on another node than the one that emits, calls it and moves it.
import { io } from "socket.io-client";
import { assert, given, once, please, within } from "./support.mjs";

const socket = io(`${given.url}/game`, {
  forceNew: true,
  auth: { token: given.token, as: "js" },
  extraHeaders: { "X-Game": "1" },
  transports: given.transports,
});
const heard = [];
socket.onAny((event, ...data) => heard.push([event, ...data.filter((value) => typeof value !== "function")]));
socket.on("question", (question, answer) => answer("js", question));
await once(socket, "connect");
const first = await within(socket.emitWithAck("join", "red"), "the answer");
assert.deepEqual(first, ["red"]);
const left = once(socket, "disconnect");
await please("play");
assert.equal((await left)[0], "io server disconnect");
console.log(JSON.stringify({ finished: "game", heard }));
process.exit(0);
