// The JavaScript library, driven by commands: JSON lines on stdin, observations as JSON lines on stdout.
//
// Commands are numbered from 1 and started in their order; each is answered by {"done": n} or {"failed": n, "code"}.
// The first line is {"started": true}.
//
// open     url, token: [token, …], store: path or null, device, wait   each connect uses the next token
// clock    ahead: seconds                                              the wall clock of this process is set
// join     topic
// send     topic, content                                              done when it is acknowledged
// edit     topic, content, to                                          of a message that was consumed
// publish  topic, event, data
// stream   topic                                                       opens a message that streams
// write    text                                                        to that message
// write_until_stopped   text                          again and again, until a member has asked to stop
// finish                            {"finished": content}
// consume  topic                    for each message: {"message": {"seq", "content", "sender"}}
// watch    topic                    for each change of the timeline: {"timeline": [content, …]}
// close
import { createInterface } from "node:readline";
import { connect, TidingsError } from "../../clients/javascript/dist/node.js";

let client;
let stream;
const seen = new Map();
// A file that must not grow is an error of the write, as on a full disk.
process.on("SIGXFSZ", () => undefined);

const commands = {
  async open({ url, token, store, device, wait = true }) {
    const fresh = () => (token.length > 1 ? token.shift() : token[0]);
    client = await connect(url, { token: fresh, ...(store === null ? {} : { store }), device, wait });
  },
  async clock({ ahead }) {
    const real = Date.now;
    Date.now = () => real() + ahead * 1000;
  },
  async join({ topic }) {
    await client.join(topic);
  },
  async send({ topic, content }) {
    await client.room({ topic_name: topic }).send(content);
  },
  async edit({ topic, content, to }) {
    await client.room({ topic_name: topic }).edit(seen.get(content).id, to);
  },
  async publish({ topic, event, data }) {
    await client.room({ topic_name: topic }).publish(event, data);
  },
  async stream({ topic }) {
    stream = await client.room({ topic_name: topic }).stream();
  },
  async write({ text }) {
    await stream.write(text);
  },
  async write_until_stopped({ text }) {
    while (!stream.stopped) {
      await stream.write(text);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  },
  async finish() {
    report({ finished: (await stream.finish()).content });
  },
  async consume({ topic }) {
    const consume = async () => {
      for await (const message of client.room({ topic_name: topic }).messages()) {
        seen.set(message.content, message);
        report({ message: { seq: message.seq, content: message.content, sender: message.sender } });
      }
    };
    consume().catch((error) => {
      if (!(error instanceof TidingsError)) throw error;
    });
  },
  async watch({ topic }) {
    const timeline = await client.room({ topic_name: topic }).timeline();
    const show = () =>
      report({ timeline: [...timeline.state.messages, ...timeline.state.unsent].map(({ content }) => content) });
    timeline.subscribe(show);
    show();
  },
  async close() {
    await client.close();
  },
};

function report(observation) {
  process.stdout.write(`${JSON.stringify(observation)}\n`);
}

async function perform(number, { do: name, ...fields }) {
  try {
    await commands[name](fields);
    report({ done: number });
  } catch (error) {
    if (!(error instanceof TidingsError)) throw error;
    report({ failed: number, code: error.code });
  }
}

report({ started: true });
let number = 0;
for await (const line of createInterface({ input: process.stdin })) void perform(++number, JSON.parse(line));
process.exit();
