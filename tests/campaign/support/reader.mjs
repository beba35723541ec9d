// Stock socket.io-client readers that come back by themselves; each thing that comes is a line of JSON.
// Started with a JSON object: `url`, `clients` as [{name, token, device, exact, transports}].
import { createRequire } from "node:module";

const require = createRequire(new URL("../../js/", import.meta.url));
const { io } = require("socket.io-client");
const given = JSON.parse(process.argv[2]);

for (const { name, token, device, exact, transports } of given.clients) {
  const tell = (line) => process.stdout.write(`${JSON.stringify({ name, ...line })}\n`);
  const cursors = {};
  const socket = io(given.url, {
    forceNew: true,
    transports,
    reconnectionDelay: 100,
    reconnectionDelayMax: 1000,
    auth: (give) => {
      const brought = exact ? { ...cursors } : null;
      tell({ brought });
      give(exact ? { token, device, cursors: brought } : { token, device });
    },
  });
  for (const event of ["message", "order.paid"]) {
    socket.on(event, (payload) => {
      cursors[payload.room_id] = Math.max(payload.seq, cursors[payload.room_id] ?? 0);
      tell({ event, payload });
    });
  }
  socket.on("ready", ({ reset }) => tell({ event: "ready", payload: { reset } }));
  socket.on("closing", (payload) => {
    // After `reconnect: false` a stock client stays away; nothing here may lead to that.
    tell({ event: "closing", payload });
  });
}
process.stdin.on("end", () => process.exit(0));
process.stdin.resume();
