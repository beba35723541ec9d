// A stock client comes again and again, and leaves as soon as it is ready. It brings no cursors.
//
// Given: `url`, `token`, `device`, `transports` (null: the default ones, with the upgrade), `visits` and `stay` (PINGs
// that the last visit waits for before it leaves). Says how many entries each visit was sent.
import { io } from "socket.io-client";

const { url, token, device, transports, visits, stay } = JSON.parse(process.argv[2]);
const replayed = [];

function visit() {
  const socket = io(url, {
    forceNew: true,
    reconnection: false,
    auth: { token, device },
    ...(transports && { transports }),
  });
  let pings = 0;
  const last = replayed.length === visits - 1;
  socket.on("ready", (ready) => {
    replayed.push(ready.replayed);
    if (!last || !stay) socket.disconnect();
  });
  socket.io.on("ping", () => {
    pings += 1;
    if (last && pings === stay) socket.disconnect();
  });
  socket.io.engine.on("close", (reason) => {
    if (reason !== "forced close") throw new Error(`closed: ${reason}`);
    if (!last) visit();
    else console.log(JSON.stringify({ finished: "visits", replayed, pings }));
  });
}

visit();
