/** Chromium, as it is installed on the machine. */
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { type Browser, chromium } from "playwright-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome"];

const ARGS = [
  "--no-sandbox", // a container's root has no other way; the pages are our own
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // Whatever a page asks of another host does not leave the machine.
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/** The path of the browser; null if there is none, which fails the tests in continuous integration. */
export function findChromium(): string | null {
  const given = process.env.TIDINGS_CHROMIUM;
  if (given !== undefined && given !== "") return given;
  for (const folder of (process.env.PATH ?? "").split(delimiter))
    for (const name of NAMES) if (isProgram(join(folder, name))) return join(folder, name);
  if (process.env.CI) throw new Error(MISSING);
  return null;
}

export const MISSING = "no Chromium is installed: install one, or name one with TIDINGS_CHROMIUM";

export function launch(executablePath: string): Promise<Browser> {
  return chromium.launch({ executablePath, args: ARGS });
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
