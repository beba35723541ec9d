// Checks an AsyncAPI document with the official parser: `node asyncapi.mjs < document`; prints its report as JSON.
import { text } from "node:stream/consumers";

import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(await text(process.stdin));
const found = diagnostics.map(({ code, message, path, severity }) => ({ code, message, path: path.join("."), severity }));
const operations = document?.allOperations().map((operation) => operation.id()) ?? [];
console.log(JSON.stringify({ diagnostics: found, operations }));
