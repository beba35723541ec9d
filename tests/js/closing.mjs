// The events of an application whose connection the server closes.
//
// Given: `url`, `tokens`, `transports` (null: the default ones). The user logs out, repeatedly with new sessions;
// then the server closes a connection that should reconnect.
import { Client, assert, given, once, please } from "./support.mjs";

const options = given.transports && { transports: given.transports };

for (const token of given.tokens.slice(1)) {
  const client = await new Client(token, options).ready();
  if (!given.transports) await upgraded(client);
  const gone = once(client.socket, "disconnect");
  const answer = await client.socket.emitWithAck("logout", {});
  assert.deepEqual(answer, { ok: true, data: {} });
  const [reason] = await gone;
  assert.deepEqual(client.of("closing"), [{ reason: "token_revoked", reconnect: false }]);
  assert.equal(reason, "io server disconnect", "after which the client does not reconnect");
  assert.ok(!client.socket.active);
}

const client = await new Client(given.tokens[0], options).ready();
if (!given.transports) await upgraded(client);
for (let times = 1; times <= 3; times++) {
  await please("close");
  await client.ready(times + 1);
  assert.deepEqual(client.of("closing"), Array(times).fill({ reason: "shutdown", reconnect: true }));
}
client.close();
console.log(JSON.stringify({ finished: "closing" }));
process.exit(0);

async function upgraded({ socket }) {
  if (socket.io.engine.transport.name !== "websocket") await once(socket.io.engine, "upgrade");
}
