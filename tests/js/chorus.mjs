// One stock client: performs the actions read from standard input, and prints its events, one JSON object per line.
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const { url, token } = JSON.parse(process.argv[2]);
const tell = (what) => console.log(JSON.stringify(what));

const socket = io(url, { forceNew: true, auth: { token, device: "browser" } });
socket.on("message", (message) => tell({ heard: [message.sender, message.content] }));
socket.on("ready", () => tell({ answer: "ready" }));

for await (const line of createInterface({ input: process.stdin })) {
  const { action, payload } = JSON.parse(line);
  tell({ answer: await socket.timeout(20_000).emitWithAck(action, payload) });
}
socket.disconnect();
