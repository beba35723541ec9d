// Browsers with push subscriptions: reads a request per line, and answers each with a line. Decrypts with http_ece
// and verifies signatures with Node's crypto: neither is what the server uses.
import { createECDH, createPublicKey, randomBytes, verify } from "node:crypto";
import { createInterface } from "node:readline";
import ece from "http_ece";

const browsers = new Map();

function subscribe({ name }) {
  const privateKey = createECDH("prime256v1");
  const p256dh = privateKey.generateKeys("base64url");
  const auth = randomBytes(16).toString("base64url");
  browsers.set(name, { privateKey, auth });
  return { p256dh, auth };
}

function open({ name, body, authorization }) {
  const [, token, key] = /^vapid t=([^,]+), k=(\S+)$/.exec(authorization);
  const point = Buffer.from(key, "base64url");
  if (point.length !== 65 || point[0] !== 4) throw new Error("not an uncompressed point");
  const [x, y] = [point.subarray(1, 33), point.subarray(33)].map((part) => part.toString("base64url"));
  const publicKey = createPublicKey({ key: { kty: "EC", crv: "P-256", x, y }, format: "jwk" });
  const [header, claims, signature] = token.split(".");
  const signed = Buffer.from(`${header}.${claims}`);
  const options = { key: publicKey, dsaEncoding: "ieee-p1363" };
  if (!verify("sha256", signed, options, Buffer.from(signature, "base64url"))) throw new Error("bad signature");
  const { privateKey, auth } = browsers.get(name);
  const content = Buffer.from(body, "base64");
  const text = ece.decrypt(content, { version: "aes128gcm", privateKey, authSecret: auth });
  const decoded = (part) => JSON.parse(Buffer.from(part, "base64url"));
  return { data: JSON.parse(text), header: decoded(header), claims: decoded(claims), key, bytes: content.length };
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = request.authorization === undefined ? subscribe(request) : open(request);
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
