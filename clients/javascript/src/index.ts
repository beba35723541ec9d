/** The entry point in browsers: a store by name is a database of IndexedDB. */
import { connector } from "./client.ts";
import { IndexedDbStore } from "./indexedDb.ts";
import { MemoryStore } from "./store.ts";

export * from "./exports.ts";
export { IndexedDbStore };

export const connect = connector(async (name) => (name === null ? new MemoryStore() : IndexedDbStore.open(name)));
