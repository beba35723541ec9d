// Files over tus, by the packages of tus itself, and a check of the token. Each part is synced before it is acknowledged.
import { open } from "node:fs/promises";
import { FileStore } from "@tus/file-store";
import { Server } from "@tus/server";
import jwt from "jsonwebtoken";

class DurableStore extends FileStore {
  async write(readable, id, offset) {
    const end = await super.write(readable, id, offset);
    const file = await open(this.resolve(id));
    await file.sync();
    await file.close();
    return end;
  }
}

export function receiveUploads(http, directory) {
  const path = "/api/uploads";
  const tus = new Server({ path, relativeLocation: true, datastore: new DurableStore({ directory }) });
  http.on("request", (request, response) => {
    if (!request.url.startsWith(path)) return;
    const token = request.headers.authorization?.slice("Bearer ".length);
    const claims = { algorithms: ["HS256"], issuer: "tidings", audience: "tidings" };
    jwt.verify(token, process.env.PEER_SECRET, claims, (problem) => {
      if (problem) response.writeHead(401).end();
      else tus.handle(request, response);
    });
  });
}
