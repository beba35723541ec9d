// Every transport, and the upgrade from polling to WebSocket, while messages stream in both directions.
import { NodeWebSocket, NodeXHR } from "engine.io-client";
import { Client, assert, given, once } from "./support.mjs";

/** A WebSocket that waits for `open`, so that the test decides when the upgrade begins. */
class LateWebSocket extends NodeWebSocket {
  static open;
  static opened = new Promise((resolve) => {
    LateWebSocket.open = resolve;
  });

  doOpen() {
    LateWebSocket.opened.then(() => super.doOpen());
  }
}

const writer = await new Client(given.tokens.omar).ready();
const { room_id } = await writer.ask("create", { topic_name: "noticias" });
const subscriber = await new Client(given.tokens.diego).ready();
await subscriber.ask("subscribe", { topic_name: "noticias" });
subscriber.close();

const cases = [
  { name: "polling", options: { transports: ["polling"] }, ends: "polling" },
  { name: "websocket", options: { transports: ["websocket"] }, ends: "websocket" },
  { name: "the default", options: {}, ends: "websocket" },
  { name: "an upgrade in full flow", options: { transports: [NodeXHR, LateWebSocket] }, ends: "websocket", late: true },
];

/** Send messages until stopped, a few in flight at a time, so that there is always something to deliver. */
function stream(client, content) {
  const seqs = [];
  let going = true;
  const done = (async () => {
    while (going) {
      const batch = Array.from({ length: 4 }, () => client.ask("message", { room_id, content }));
      seqs.push(...(await Promise.all(batch)).map((message) => message.seq));
    }
    return seqs;
  })();
  return () => {
    going = false;
    return done;
  };
}

for (const { name, options, ends, late } of cases) {
  const stopWriting = stream(writer, "from omar");
  const reader = new Client(given.tokens.diego, {
    ...options,
    auth: (give) => give({ token: given.tokens.diego, device: name }),
  });
  await once(reader.socket, "connect");
  const { engine } = reader.socket.io;
  const upgraded = engine.transport.name === ends ? null : once(engine, "upgrade");
  const stopTalking = stream(reader, name);
  await reader.ready();
  const live = async () => {
    const seen = reader.messages(room_id).length;
    await reader.until(() => reader.messages(room_id).length >= seen + 50, `${name}: what is live`);
  };
  if (late) {
    await live();
    assert.equal(engine.transport.name, "polling");
    LateWebSocket.open();
  }
  await upgraded;
  await live();
  assert.equal(engine.transport.name, ends);

  const talked = await stopTalking();
  const written = await stopWriting();
  const last = Math.max(talked.at(-1), written.at(-1));
  await reader.until(() => reader.messages(room_id).at(-1)?.seq >= last, `${name}: the end`);
  const came = reader.messages(room_id);
  assert.deepEqual(
    came.map((message) => message.seq),
    came.map((_, at) => came[0].seq + at),
    `${name}: no gap, no repeat, in order`,
  );
  const sorted = [...talked].sort((a, b) => a - b);
  assert.deepEqual(talked, sorted, `${name}: what it sent is in the log in that order`);
  assert.deepEqual(
    came.filter((message) => message.content === name).map((message) => message.seq),
    talked,
    `${name}: what it sent is in the log once`,
  );
  assert.deepEqual(reader.of("closing"), []);
  reader.close();
}
writer.close();
console.log(JSON.stringify({ finished: "transports" }));
process.exit(0);
