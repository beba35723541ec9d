// One stock client reconnects to many missed messages, in a new process, and prints a summary of what it received.
//
// Given: `url`, `token`, `device`, `room_id`, `after` (the seq that it has), `upto` (the seq of the last missed one),
// `transports` (null: the default ones, with the upgrade) and `quiet_ms` (silence after which it counts as stalled).
import { io } from "socket.io-client";

const { url, token, device, room_id, after, upto, transports, quiet_ms } = JSON.parse(process.argv[2]);
const seen = { upgraded_at: null, connects: 0, gaps: 0, repeats: 0, last: after, ready: false, live: false };

const socket = io(url, {
  forceNew: true,
  reconnectionDelay: 50,
  reconnectionDelayMax: 200,
  auth: (give) => give({ token, device, cursors: { [room_id]: seen.last } }),
  ...(transports && { transports }),
});

let quiet;
function heard() {
  clearTimeout(quiet);
  quiet = setTimeout(() => end("stalled"), quiet_ms);
}

function end(outcome) {
  console.log(JSON.stringify({ finished: "replay", outcome, transport: socket.io.engine.transport.name, ...seen }));
  socket.disconnect();
  process.exit(0);
}

socket.on("connect", () => {
  seen.connects += 1;
  heard();
});
socket.io.engine?.once("upgrade", () => (seen.upgraded_at = seen.last));
socket.on("message", (message) => {
  if (message.room_id !== room_id) return;
  if (message.seq <= seen.last) seen.repeats += 1;
  else if (message.seq !== seen.last + 1) seen.gaps += 1;
  seen.last = Math.max(seen.last, message.seq);
  heard();
  if (seen.ready && message.content === device) {
    seen.live = true;
    end("whole");
  }
});
// A message sent after the replay arrives, too: the room is live.
socket.on("ready", () => {
  seen.ready = seen.last >= upto;
  if (!seen.ready) seen.gaps += 1;
  socket.emit("message", { room_id, content: device }, () => {});
});
heard();
