// Peer (d): the same with a log in PostgreSQL. One INSERT, committed by itself, per message, over pg's pool; emitted and
// acknowledged afterwards, in the order of arrival in each room. What was missed is not served.
import { randomUUID } from "node:crypto";
import pg from "pg";
import { failed, isMessage, serve } from "./common.mjs";

const pool = new pg.Pool({ host: process.env.PEER_DATABASE, user: "postgres", database: "postgres" });
const insert = {
  name: "insert",
  text: "INSERT INTO message (room_key, id, sender, content, created_at) VALUES ($1, $2, $3, $4, $5) RETURNING seq",
};
const roomsOf =
  "SELECT room.id AS key, room.room_id FROM member JOIN room ON room.id = member.room_key WHERE member.username = $1";

const last = new Map(); // room_id -> when the message before the next one was emitted

const io = serve();

io.on("connection", async (socket) => {
  const { rows } = await pool.query(roomsOf, [socket.data.username]);
  const keys = new Map(rows.map((room) => [room.room_id, room.key]));

  socket.on("message", async (request, answer) => {
    if (typeof answer !== "function") return;
    if (!isMessage(request)) return answer(failed("invalid", "not a message"));
    const { room_id, content } = request;
    const key = keys.get(room_id);
    if (key === undefined) return answer(failed("not_found", "no such room"));
    const id = randomUUID();
    const sender = socket.data.username;
    const now = new Date();
    const inserted = pool.query({ ...insert, values: [key, id, sender, content, now] });
    const before = last.get(room_id);
    const emitted = (async () => {
      const [result] = await Promise.allSettled([inserted, before]);
      if (result.status === "rejected") {
        console.error(result.reason);
        return answer(failed("unavailable", "could not be stored"));
      }
      const seq = Number(result.value.rows[0].seq);
      const message = { id, room_id, seq, sender, content, created_at: now.toISOString() };
      io.to(room_id).emit("message", message);
      answer({ ok: true, data: message });
    })();
    last.set(room_id, emitted);
  });

  socket.join([...keys.keys()]);
  socket.emit("ready", { username: socket.data.username });
});
