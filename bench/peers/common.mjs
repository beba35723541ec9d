// What the Node peers share: Socket.IO over WebSocket only, set up as its documentation advises for speed and memory,
// and the check of a token at the handshake.
import { createServer } from "node:http";
import jwt from "jsonwebtoken";
import { Server } from "socket.io";

const secret = process.env.PEER_SECRET;

// `options`: further ones of the server.
export function serve(options = {}) {
  const http = createServer();
  const io = new Server(http, {
    transports: ["websocket"],
    perMessageDeflate: false,
    serveClient: false,
    maxHttpBufferSize: 1e6,
    ...options,
  });
  // https://socket.io/docs/v4/memory-usage/: the handshake's request is not needed any more
  io.engine.on("connection", (raw) => {
    raw.request = null;
  });
  io.use((socket, next) => {
    jwt.verify(
      socket.handshake.auth.token,
      secret,
      { algorithms: ["HS256"], issuer: "tidings", audience: "tidings" },
      (problem, claims) => {
        if (problem) {
          next(Object.assign(new Error("no valid token"), { data: { code: "unauthenticated" } }));
        } else {
          socket.data.username = claims.sub;
          socket.data.rooms = claims.rooms;
          next();
        }
      },
    );
  });
  http.listen(Number(process.env.PORT ?? 0), "127.0.0.1", () => {
    console.log(`listening on http://127.0.0.1:${http.address().port}`);
  });
  process.once("SIGTERM", () => process.exit(0));
  return io;
}

export const failed = (code, message) => ({ ok: false, error: { code, message } });

export const isMessage = (request) =>
  typeof request?.room_id === "string" &&
  typeof request.content === "string" &&
  request.content.length >= 1 &&
  request.content.length <= 16384;
