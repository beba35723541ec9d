import { readFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";

const MAX = 12 * 1024;

test("the core is at most 12 KB gzipped, without socket.io-client and React", async () => {
  const read = (file: string) => readFile(new URL(`../dist/${file}`, import.meta.url), "utf8");
  const index = await read("index.js");
  const chunks = [...index.matchAll(/from\s*"\.\/([^"]+)"/g)].map(([, file]) => read(file as string));
  const core = [index, ...(await Promise.all(chunks))].join("\n");
  expect(core).toContain("socket.io-client");
  expect(core).not.toContain("node:");
  expect(gzipSync(core).length).toBeLessThanOrEqual(MAX);
});
