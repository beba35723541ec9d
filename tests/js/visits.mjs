// A stock client connects repeatedly without cursors, and disconnects as soon as it is ready.
//
// Given: `url`, `token`, `device`, `transports` (null: the default ones, with the upgrade), `visits` and `stay` (PINGs
// that the last visit waits for before it leaves). Asks for the time of the next PING. Prints the number of
// entries of each visit.
import { io } from "socket.io-client";
import { given, please } from "./support.mjs";

const { url, token, device, transports, visits, stay } = given;
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
  // The server answers after it has read the earlier PONGs.
  const stayOn = () => socket.emit("get_rooms", {}, () => please("the next PING"));
  socket.on("ready", (ready) => {
    replayed.push(ready.replayed);
    if (last) stayOn();
    else socket.disconnect();
  });
  socket.io.on("ping", () => {
    pings += 1;
    if (last && pings === stay) socket.disconnect();
    else if (replayed.length === visits) stayOn();
  });
  socket.io.engine.on("close", (reason) => {
    if (reason !== "forced close") throw new Error(`closed: ${reason}`);
    if (!last) {
      visit();
      return;
    }
    console.log(JSON.stringify({ finished: "visits", replayed, pings }));
    process.exit(0);
  });
}

visit();
