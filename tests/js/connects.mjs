// Connect again and again on given transports: each connection sends a message, and receives it. `connected` is asked for
// before they close: a client that polls may ask once more after it has closed its session.
import { Client, assert, given, please, within } from "./support.mjs";

const { count, room_id, token, together, transports } = given;
const ends = transports.at(-1);

async function visit(number) {
  const client = new Client(token, { transports, auth: (give) => give({ token, device: `d${number % together}` }) });
  const problems = [];
  client.socket.on("connect_error", (error) => problems.push(error.message));
  await client.ready();
  const { engine } = client.socket.io;
  if (engine.transport.name !== ends) await within(new Promise((done) => engine.once("upgrade", done)), "the upgrade");
  const sent = await client.ask("message", { room_id, content: String(number) });
  await client.until(() => client.messages(room_id).some(({ seq }) => seq === sent.seq), "its own message");
  assert.deepEqual(problems, []);
  return client;
}

const clients = [];
for (let begin = 0; begin < count; begin += together) {
  const numbers = Array.from({ length: Math.min(together, count - begin) }, (_, at) => begin + at);
  clients.push(...(await Promise.all(numbers.map(visit))));
}
await please("connected");
assert.ok(clients.every(({ socket, events }) => socket.connected && !events.some(([name]) => name === "closing")));
for (const client of clients) client.close();
console.log(JSON.stringify({ finished: "connects", count }));
process.exit(0);
