// Peer (a): Socket.IO's own way. Rooms in memory, nothing kept: who is away misses it.
import { failed, isMessage, serve } from "./common.mjs";

let number = 0;
const io = serve();

io.on("connection", (socket) => {
  socket.join(socket.data.rooms);
  socket.emit("ready", { username: socket.data.username });

  socket.on("message", (request, answer) => {
    if (typeof answer !== "function") return;
    if (!isMessage(request)) return answer(failed("invalid", "not a message"));
    if (!socket.rooms.has(request.room_id)) return answer(failed("not_found", "no such room"));
    const message = {
      id: String(++number),
      room_id: request.room_id,
      sender: socket.data.username,
      content: request.content,
      created_at: new Date().toISOString(),
    };
    io.to(request.room_id).emit("message", message);
    answer({ ok: true, data: message });
  });
});
