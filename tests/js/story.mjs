// The scenario of the first chat system, with the stock client.
import { Client, assert, given, once } from "./support.mjs";

const { tokens } = given;
const [omar, diego, satoshi] = await Promise.all(
  ["omar", "diego", "satoshi"].map((name) => new Client(tokens[name]).ready()),
);
let memoor = await new Client(tokens.memoor).ready();

// A public topic.
const news = await omar.ask("create", { topic_name: "noticias" });
await diego.ask("subscribe", { topic_name: "noticias" });
await satoshi.ask("suscribe", { topic_name: "noticias" });
await memoor.ask("suscribe", { topic_name: "noticias" });
await omar.ask("message", { topic_name: "noticias", content: "Buenos días" });
for (const client of [omar, diego, satoshi, memoor]) {
  await client.until(() => client.contents(news.room_id).length === 1, "the first message");
  assert.equal(client.messages(news.room_id)[0].sender, "omar");
}

// A private topic, by invitation.
const desk = await omar.ask("create", { topic_name: "redaccion", is_private: true });
assert.equal(await diego.refused("subscribe", { topic_name: "redaccion" }), "not_found");
await omar.ask("invite", { topic_name: "redaccion", username: "diego" });
await diego.until(() => diego.of("room_added").some(({ room }) => room.room_id === desk.room_id), "the invitation");
await diego.ask("message", { topic_name: "redaccion", content: "entre nosotros" });
await omar.until(() => omar.contents(desk.room_id).length === 1, "the private message");
assert.equal(await satoshi.refused("message", { topic_name: "redaccion", content: "?" }), "not_found");

// A direct message: the topic name is a username.
const direct = await satoshi.ask("message", { topic_name: "memoor", content: "hola" });
await memoor.until(() => memoor.contents(direct.room_id).length === 1, "the direct message");
assert.equal((await memoor.ask("message", { topic_name: "satoshi", content: "hola" })).room_id, direct.room_id);
await memoor.until(() => memoor.contents(direct.room_id).length === 2, "its own message");

// Memoor disconnects, and reconnects with its cursors.
const { cursors } = memoor;
memoor.close();
const expected = [];
for (let number = 0; number < 40; number++) {
  expected.push(`noticia ${number}`);
  await omar.ask("message", { topic_name: "noticias", content: `noticia ${number}` });
}
await satoshi.ask("message", { topic_name: "memoor", content: "¿estás?" });
await omar.ask("invite", { topic_name: "redaccion", username: "memoor" });
await diego.ask("message", { topic_name: "redaccion", content: "bienvenido" });

memoor = new Client(tokens.memoor);
Object.assign(memoor.cursors, cursors);
await memoor.ready();
assert.deepEqual(memoor.contents(news.room_id), expected);
assert.deepEqual(memoor.contents(direct.room_id), ["¿estás?"]);
assert.deepEqual(memoor.contents(desk.room_id), ["bienvenido"]);

// Live events again, without repeats.
memoor.socket.disconnect().connect();
await memoor.ready(2);
await omar.ask("message", { topic_name: "noticias", content: "en vivo" });
await memoor.until(() => memoor.contents(news.room_id).at(-1) === "en vivo", "what is live");
assert.equal(memoor.of("message").length, 43);
assert.equal(memoor.of("ready")[1].replayed, 0);
assert.deepEqual(satoshi.contents(desk.room_id), [], "who was never in the private topic got nothing of it");

// The data of a refusal has the error, and the same socket connects with a valid token.
let token = "garbage";
const stranger = new Client(null, { auth: (give) => give({ token }) });
for (const [bad, code] of [["garbage", "unauthenticated"], [given.expired, "token_expired"]]) {
  token = bad;
  const failed = once(stranger.socket, "connect_error");
  stranger.socket.connect();
  const [error] = await failed;
  assert.equal(error.data.code, code);
  assert.equal(error.message, error.data.message);
  assert.deepEqual(Object.keys(error.data).sort(), ["code", "details", "message", "retryable"]);
  assert.equal(stranger.socket.active, false, "a refused client does not try again by itself");
}
token = tokens.satoshi;
stranger.socket.connect();
await stranger.ready();

// A logout closes the session's connections for good.
const attempts = [];
satoshi.socket.io.on("reconnect_attempt", (number) => attempts.push(number));
const left = Promise.all([once(satoshi.socket, "disconnect"), once(stranger.socket, "disconnect")]);
await satoshi.ask("logout");
for (const [reason] of await left) assert.equal(reason, "io server disconnect");
for (const client of [satoshi, stranger]) {
  assert.deepEqual(client.of("closing"), [{ reason: "token_revoked", reconnect: false }]);
  assert.equal(client.socket.active, false);
}
await omar.ask("get_rooms");
assert.deepEqual(attempts, []);
const refusal = once(satoshi.socket, "connect_error");
satoshi.socket.connect();
assert.equal((await refusal)[0].data.code, "token_revoked");

for (const client of [omar, diego, satoshi, memoor, stranger]) client.close();
console.log(JSON.stringify({ finished: "story" }));
process.exit(0);
