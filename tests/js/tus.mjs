// The reference client of tus uploads a file through a network that cuts, takes up an upload that it left, and ends one.
import assert from "node:assert/strict";
import { Upload } from "tus-js-client";
import { given, within } from "./support.mjs";

const { url, token, size } = given;
const content = Buffer.alloc(size, "0123456789abcdef");
const options = {
  endpoint: `${url}/api/uploads`,
  headers: { Authorization: `Bearer ${token}` },
  chunkSize: 256 * 1024,
  retryDelays: [50, 100, 200, 400, 800],
  metadata: { filename: "datos ñ.bin", filetype: "application/octet-stream" },
  removeFingerprintOnSuccess: true,
};

function upload(more, content_ = content) {
  return within(
    new Promise((resolve, reject) => {
      const one = new Upload(content_, { ...options, ...more, onSuccess: () => resolve(one.url), onError: reject });
      one.start();
    }),
    "an upload",
  );
}

const whole = await upload({});

// Left in the middle by one process, taken up by another, which knows no more than its address
let left;
await within(
  new Promise((resolve, reject) => {
    left = new Upload(content, {
      ...options,
      onError: reject,
      onChunkComplete: (_, sent) => {
        if (sent < size / 2) return;
        left.abort().then(resolve, reject);
      },
    });
    left.start();
  }),
  "half an upload",
);
const resumed = await upload({ uploadUrl: left.url });
assert.equal(resumed, left.url);

const ended = new Upload(content, { ...options, onError: () => {} });
await within(
  new Promise((resolve) => {
    ended.options.onChunkComplete = () => ended.abort(true).then(resolve);
    ended.start();
  }),
  "the end of an upload",
);
await assert.rejects(upload({ uploadUrl: ended.url, endpoint: null, retryDelays: null }), /404|unable to resume/);
await assert.rejects(upload({ retryDelays: null }, Buffer.alloc(given.most + 1)), /413|too_large/);

console.log(JSON.stringify({ finished: "tus", uploaded: [whole, resumed] }));
process.exit(0);
