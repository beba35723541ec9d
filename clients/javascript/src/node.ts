/** The entry point on Node: a store by name is a file. */
import { connector } from "./client.ts";
import { FileStore } from "./file.ts";
import { MemoryStore } from "./store.ts";

export * from "./exports.ts";
export { FileStore };

export const connect = connector(async (name) => (name === null ? new MemoryStore() : FileStore.open(name)));
