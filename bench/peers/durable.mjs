// Peer (b): the same with a log in SQLite. One transaction per message, on disk before it is emitted and acknowledged.
import { randomUUID } from "node:crypto";
import Database from "better-sqlite3";
import { failed, isMessage, serve } from "./common.mjs";

const PAGE = 500;
const db = new Database(process.env.PEER_DATABASE, { fileMustExist: true });
db.pragma("journal_mode = WAL");
db.pragma("synchronous = FULL");
db.pragma("foreign_keys = ON");

const roomsOf = db.prepare(
  "SELECT room.id AS key, room.room_id FROM member JOIN room ON room.id = member.room_key WHERE member.username = ?",
);
const takeSeq = db.prepare("UPDATE room SET last_seq = last_seq + 1 WHERE id = ? RETURNING last_seq").pluck();
const insert = db.prepare(
  "INSERT INTO message (room_key, seq, id, sender, content, created_at) VALUES (?, ?, ?, ?, ?, ?)",
);
const after = db.prepare(
  "SELECT seq, id, sender, content, created_at FROM message WHERE room_key = ? AND seq > ? ORDER BY seq LIMIT ?",
);

const append = db.transaction((key, id, sender, content, now) => {
  const seq = takeSeq.get(key);
  insert.run(key, seq, id, sender, content, now);
  return seq;
});

const view = (room_id, row) => ({
  id: row.id,
  room_id,
  seq: row.seq,
  sender: row.sender,
  content: row.content,
  created_at: new Date(row.created_at).toISOString(),
});

const io = serve();
if (process.env.PEER_UPLOADS) {
  const { receiveUploads } = await import("./uploads.mjs");
  receiveUploads(io.httpServer, process.env.PEER_UPLOADS);
}

io.on("connection", async (socket) => {
  const keys = new Map(roomsOf.all(socket.data.username).map((room) => [room.room_id, room.key]));

  socket.on("message", (request, answer) => {
    if (typeof answer !== "function") return;
    if (!isMessage(request)) return answer(failed("invalid", "not a message"));
    const key = keys.get(request.room_id);
    if (key === undefined) return answer(failed("not_found", "no such room"));
    const row = { id: randomUUID(), sender: socket.data.username, content: request.content, created_at: Date.now() };
    try {
      row.seq = append(key, row.id, row.sender, row.content, row.created_at);
    } catch (problem) {
      console.error(problem);
      return answer(failed("unavailable", "could not be stored"));
    }
    const message = view(request.room_id, row);
    io.to(request.room_id).emit("message", message);
    answer({ ok: true, data: message });
  });

  // A message that streams, as an author of such a server would write it: each piece is emitted, the end is stored.
  socket.on("append", (request, answer) => {
    if (!keys.has(request.room_id)) return answer(failed("not_found", "no such room"));
    io.to(request.room_id).emit("message_append", request);
    answer({ ok: true, data: {} });
  });

  // What was missed, a page at a time, so that others are served in between; each room goes live when it is read up.
  for (const [room_id, from] of Object.entries(socket.handshake.auth.cursors ?? {})) {
    const key = keys.get(room_id);
    let seq = from;
    for (let page; key !== undefined && (page = after.all(key, seq, PAGE)).length > 0; ) {
      for (const row of page) socket.emit("message", view(room_id, row));
      seq = page.at(-1).seq;
      if (page.length < PAGE) break;
      await new Promise(setImmediate);
      if (!socket.connected) return;
    }
    if (key !== undefined) socket.join(room_id);
  }
  socket.join([...keys.keys()]);
  socket.emit("ready", { username: socket.data.username });
});
