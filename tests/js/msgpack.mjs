// The official client with the official msgpack parser, over every transport.
import parser from "socket.io-msgpack-parser";
import { Client, assert, given, once, please, within } from "./support.mjs";

const omar = await new Client(given.tokens.omar, { parser }).ready();
const { room_id } = await omar.ask("create", { topic_name: "noticias" });
const content = "ñ 漢字 🦉";

for (const [device, transports] of [
  ["socket", ["websocket"]],
  ["poller", ["polling"]],
  ["both", ["polling", "websocket"]],
]) {
  const auth = (cursors) => (give) => give({ token: given.tokens.diego, device, cursors });
  const diego = await new Client(given.tokens.diego, { parser, transports, auth: auth({}) }).ready();
  await diego.ask("connect_to_room", { topic_name: "noticias" });
  const before = diego.messages(room_id).length;

  // What is sent is acknowledged, and comes to all, in order, as it was.
  const sent = await Promise.all(
    Array.from({ length: 20 }, (_, n) => omar.ask("message", { room_id, content: `${content} ${n}`, client_id: `${device} ${n}` })),
  );
  await diego.until(() => diego.messages(room_id).length === before + 20, "what omar sent");
  const came = diego.messages(room_id).slice(before);
  assert.deepEqual(came.map((message) => message.seq), sent.map((message) => message.seq));
  assert.deepEqual(came.map((message) => message.content), sent.map((message) => message.content));
  assert.equal(came[0].content, `${content} 0`);
  assert.equal(came[0].client_id, null);
  assert.equal(sent[0].client_id, `${device} 0`);
  const { messages } = await diego.ask("history", { room_id, limit: 20 });
  assert.deepEqual(messages.map((message) => message.content), came.map((message) => message.content));

  // Refusals are answered too; msgpack can say what JSON cannot.
  assert.equal(await diego.refused("no such action"), "unknown_action");
  assert.equal(await diego.refused("message", { room_id, content: new Uint8Array([1, 2]) }), "invalid");
  assert.equal(await diego.refused("message", { room_id, content: NaN }), "invalid");
  assert.equal(await diego.refused("history", { room_id, limit: 1.5 }), "invalid");

  // What was missed is replayed.
  const last = came.at(-1).seq;
  diego.close();
  await omar.ask("message", { room_id, content: device });
  const back = await new Client(given.tokens.diego, { parser, transports, auth: auth({ [room_id]: last }) }).ready();
  assert.deepEqual(back.contents(room_id), [device]);
  assert.equal(back.of("ready")[0].replayed, 1);
  const { engine } = back.socket.io;
  if (device === "both" && engine.transport.name === "polling") await once(engine, "upgrade");
  assert.equal(engine.transport.name, device === "poller" ? "polling" : "websocket");
  back.close();
}

// A refused token, and another namespace.
const nobody = new Client("garbage", { parser, reconnection: false });
const [refusal] = await once(nobody.socket, "connect_error");
assert.equal(refusal.data.code, "unauthenticated");
const [elsewhere] = await once(omar.socket.io.socket("/admin").connect(), "connect_error");
assert.equal(elsewhere.message, "Invalid namespace");

// Who speaks the default parser is closed, not left waiting.
const other = new Client(given.tokens.omar, { reconnection: false });
await once(other.socket.io, "close");
assert.deepEqual(other.events, []);

// A restart of the server.
await Promise.all([once(omar.socket, "disconnect"), please("restart")]);
await within(omar.ready(2), "the server to be back");
assert.equal(omar.of("closing").at(-1).reason, "shutdown");
assert.equal((await omar.ask("message", { room_id, content })).content, content);
omar.close();
console.log(JSON.stringify({ finished: "msgpack" }));
process.exit(0);
