import "fake-indexeddb/auto";
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import { FileStore } from "../src/file.ts";
import { IndexedDbStore } from "../src/indexedDb.ts";
import { type Batch, MemoryStore, type Range, type Store } from "../src/store.ts";

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

let made = 0;

async function path(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "tidings-store-"));
  cleanups.push(() => rm(folder, { recursive: true, force: true }));
  return join(folder, "state.db");
}

const stores: Record<string, () => Promise<Store>> = {
  memory: async () => new MemoryStore(),
  file: async () => FileStore.open(await path()),
  IndexedDB: () => IndexedDbStore.open(`test ${++made}`),
};

const key = fc.constantFrom("a", "b", "c/1", "c/2", "c/3", "d");
const batch: fc.Arbitrary<Batch> = fc.record(
  {
    unless: fc.record({ key, reaches: fc.integer({ min: 0, max: 5 }) }),
    writes: fc.array(fc.tuple(key, fc.option(fc.integer({ min: 0, max: 9 }), { nil: undefined })), { maxLength: 4 }),
  },
  { requiredKeys: ["writes"] },
);
const range: fc.Arbitrary<Range> = fc.record(
  { above: key, limit: fc.integer({ min: 1, max: 3 }), descending: fc.boolean() },
  { requiredKeys: [] },
);

/** What a store must do, in the plainest way. */
class Model {
  private readonly values = new Map<string, unknown>();

  commit(batches: readonly Batch[]): boolean[] {
    return batches.map(({ unless, writes }) => {
      const held = unless === undefined ? undefined : this.values.get(unless.key);
      if (unless !== undefined && typeof held === "number" && held >= unless.reaches) return false;
      for (const [name, value] of writes)
        value === undefined ? this.values.delete(name) : this.values.set(name, value);
      return true;
    });
  }

  range(prefix: string, { above = "", limit = 99, descending = false }: Range = {}): (readonly [string, unknown])[] {
    const rows = [...this.values].filter(([name]) => name.startsWith(prefix) && name > above);
    rows.sort(([one], [other]) => (one < other ? -1 : 1));
    return (descending ? rows.reverse() : rows).slice(0, limit);
  }
}

describe.each(Object.entries(stores))("%s", (_, open) => {
  test("commits are applied in order, each batch all or none, and ranges are sorted", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(batch, { maxLength: 3 }), { maxLength: 6 }),
        range,
        async (commits, asked) => {
          const store = await open();
          const model = new Model();
          const applied = await Promise.all(commits.map((batches) => store.commit(batches)));
          expect(applied).toEqual(commits.map((batches) => model.commit(batches)));
          expect(await store.range("")).toEqual(model.range(""));
          expect(await store.range("c/", asked)).toEqual(model.range("c/", asked));
          await store.close();
        },
      ),
      { numRuns: 40 },
    );
  });

  test("a lock is held by one at a time, in order", async () => {
    const store = await open();
    const steps: string[] = [];
    const work = (name: string) => async () => {
      steps.push(`${name} begins`);
      await store.get("a");
      steps.push(`${name} ends`);
    };
    await Promise.all([store.lock("l", work("1")), store.lock("l", work("2"))]);
    expect(steps).toEqual(["1 begins", "1 ends", "2 begins", "2 ends"]);
    await store.close();
  });
});

test("a Blob outlives the process in a file of its own, which is removed with its key, or if a crash left it", async () => {
  const name = await path();
  const blobs = async () => (await readdir(dirname(name))).filter((file) => file.endsWith(".blob"));
  let store = await FileStore.open(name);
  const content = new Blob(["añ😀".repeat(1000)], { type: "text/plain" });
  const writes = [
    ["n", 1],
    ["b/1", content],
    ["b/2", content],
    ["b/3", content],
  ] as const;
  await store.commit([{ writes }, { writes: [["b/3", undefined]] }]);
  await store.commit([{ unless: { key: "n", reaches: 1 }, writes: [["b/4", content]] }]);
  expect((await blobs()).length).toBe(2);
  expect((await readFile(name)).length).toBeLessThan(1000);
  await store.close();
  await writeFile(`${name}.left.blob`, "by a crash");
  store = await FileStore.open(name);
  expect((await blobs()).length).toBe(2);
  await store.commit([{ writes: [["b/2", undefined]] }]);
  await store.commit(Array.from({ length: 40 }, (_, n) => ({ writes: [["text", `${n} ${"x".repeat(100_000)}`]] })));
  await store.close();
  store = await FileStore.open(name);
  const kept = (await store.get("b/1")) as Blob;
  expect([kept.type, await kept.text(), await store.get("b/2")]).toEqual([
    "text/plain",
    await content.text(),
    undefined,
  ]);
  await store.commit([{ writes: [["b/1", 1]] }]);
  expect(await blobs()).toEqual([]);
  await store.close();
});

test("wherever a crash cuts the file, it holds the first commits, whole, and can be written again", async () => {
  const name = await path();
  const store = await FileStore.open(name);
  const sizes: number[] = [0];
  for (let n = 1; n <= 3; n++) {
    await store.commit([
      {
        writes: [
          ["n", n],
          [`text ${n}`, "añ😀"],
        ],
      },
    ]);
    sizes.push((await readFile(name)).length);
  }
  await store.close();
  const whole = await readFile(name);
  for (let size = 0; size <= whole.length; size++) {
    await writeFile(name, whole);
    await truncate(name, size);
    const cut = await FileStore.open(name);
    const commits = sizes.filter((end) => end <= size).length - 1;
    expect(await cut.get("n")).toBe(commits === 0 ? undefined : commits);
    expect((await cut.range("text")).length).toBe(commits);
    await cut.commit([{ writes: [["n", 9]] }]);
    await cut.close();
    const again = await FileStore.open(name);
    expect(await again.get("n")).toBe(9);
    await again.close();
  }
});

test("a long journal is compacted, and holds the same", async () => {
  const name = await path();
  const store = await FileStore.open(name);
  const text = "x".repeat(100_000);
  for (let n = 0; n < 40; n++) await store.commit([{ writes: [["text", `${n} ${text}`]] }]);
  expect((await readFile(name)).length).toBeLessThan(2_500_000);
  await store.close();
  const again = await FileStore.open(name);
  expect(await again.get("text")).toBe(`39 ${text}`);
  await again.close();
});

test("a file is locked while it is open, and the lock of an ended process is taken over", async () => {
  const name = await path();
  const store = await FileStore.open(name);
  await expect(FileStore.open(name)).rejects.toMatchObject({ code: "store_in_use", details: { pid: process.pid } });
  await store.close();
  await writeFile(`${name}.lock`, "999999999 1");
  await (await FileStore.open(name)).close();
  await writeFile(`${name}.lock`, `${process.ppid} 1`); // its number is another process's by now
  if (process.platform === "linux") await (await FileStore.open(name)).close();
});
