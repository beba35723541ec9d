// Peer (a): Socket.IO's own way. Rooms in memory, nothing kept: who is away misses it.
// With PEER_REDIS, the path of Redis' socket, several nodes share the rooms through socket.io's Redis adapter.
import { failed, isMessage, serve } from "./common.mjs";

async function adapter(path) {
  const { createAdapter } = await import("@socket.io/redis-adapter");
  const { createClient } = await import("redis");
  const publishing = createClient({ socket: { path } });
  const subscribed = publishing.duplicate();
  await Promise.all([publishing.connect(), subscribed.connect()]);
  return createAdapter(publishing, subscribed);
}

let number = 0;
const redis = process.env.PEER_REDIS;
const io = serve(redis ? { adapter: await adapter(redis) } : {});

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
