// A stock client survives a restart and a crash of the server, and no message is lost or repeated.
import { Client, assert, given, once, please } from "./support.mjs";

const reader = await new Client(given.tokens.diego).ready();
const writer = await new Client(given.tokens.omar).ready();
const { room_id } = await writer.ask("create", { topic_name: "noticias" });
await reader.ask("subscribe", { topic_name: "noticias" });

const reasons = [];
reader.socket.on("disconnect", (reason) => reasons.push(reason));

let writing = true;
const acknowledged = [];
const stream = (async () => {
  for (let number = 0; writing; number++) {
    acknowledged.push(await writer.deliver(room_id, `message ${number}`));
  }
})();
const received = (more) => {
  const goal = reader.messages(room_id).length + more;
  return reader.until(() => reader.messages(room_id).length >= goal, `${more} messages more`);
};

await received(50);
await please("terminate");
await reader.until(() => reader.of("closing").length > 0, "a word of the server's");
assert.deepEqual(reader.of("closing"), [{ reason: "shutdown", reconnect: true }]);
await please("start");
await reader.ready(2);
await received(50);

await please("kill");
await please("start");
await reader.ready(3);
await received(50);
assert.equal(reader.of("closing").length, 1, "who is killed says nothing");

writing = false;
await stream;
await reader.until(() => reader.messages(room_id).length >= acknowledged.length, "all that was acknowledged");

const seqs = Array.from(acknowledged, (_, at) => at + 1);
assert.deepEqual(acknowledged.map((message) => message.seq), seqs);
assert.deepEqual(acknowledged.map((message) => message.content), seqs.map((seq) => `message ${seq - 1}`));
assert.deepEqual(reader.messages(room_id).map((message) => message.seq), seqs);
assert.deepEqual(reader.contents(room_id), acknowledged.map((message) => message.content));
assert.equal(reasons.length, 2);
assert.ok(!reasons.includes("io server disconnect"), "after which a stock client does not come back");

// The callback returned the current cursors at each connect.
const heads = reader.brought.map((cursors) => cursors[room_id] ?? 0);
assert.ok(heads[0] === 0 && heads.at(-1) > heads[1] && heads[1] > 0, JSON.stringify(heads));

for (const client of [reader, writer]) client.close();
console.log(JSON.stringify({ finished: "restart" }));
process.exit(0);
