// Options of the official client that change what it sends: binary as base64, and subprotocols.
import parser from "socket.io-msgpack-parser";
import { Client, assert, given } from "./support.mjs";

const options = given.msgpack ? { parser } : {};

for (const more of [{ forceBase64: true }, { protocols: ["foo", "bar"] }]) {
  const client = new Client(given.token, { ...options, ...more, transports: ["websocket"], reconnection: false });
  await client.ready();
  assert.equal(await client.refused("message", { content: new Uint8Array([1, 2]) }), "invalid");
  await client.ask("get_rooms");
  if (more.protocols) assert.equal(client.socket.io.engine.transport.ws.protocol, "foo");
  client.close();
}
console.log(JSON.stringify({ finished: "options" }));
process.exit(0);
