import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { brotliCompressSync } from "node:zlib";
import react from "@vitejs/plugin-react";
// @ts-expect-error: it has no types
import { po } from "gettext-parser";
// @ts-expect-error: it has no types
import subsetFont from "subset-font";
import type { Plugin, Rolldown } from "vite";
import { defineConfig } from "vitest/config";

/** Where `npm run dev` finds a server. */
const SERVER = process.env.TIDINGS_SERVER ?? "http://127.0.0.1:8000";

/** The library, from its source: the page needs no build of it. The sign-in form loads only its errors. */
const CLIENT = fileURLToPath(new URL("../clients/javascript/src", import.meta.url));

/** No part of the Markdown parser may make HTML: see there. */
const REFERENCES = fileURLToPath(new URL("src/views/references.ts", import.meta.url));
const NO_HTML = fileURLToPath(new URL("src/views/noHtml.ts", import.meta.url));

/** The emoji picker's data, served from here and loaded when the picker is first opened. */
function emojiData(): Plugin {
  const files = ["en/data.json", "en/messages.json", "es/data.json", "es/messages.json", "en/shortcodes/github.json"];
  const read = (file: string) => readFile(new URL(`node_modules/emojibase-data/${file}`, import.meta.url));
  return {
    name: "tidings:emoji-data",
    async generateBundle() {
      for (const file of files)
        this.emitFile({ type: "asset", fileName: `emoji/${file}`, source: new Uint8Array(await read(file)) });
    },
    configureServer(server) {
      for (const file of files)
        server.middlewares.use(`/emoji/${file}`, async (_, answer) => {
          answer.setHeader("content-type", "application/json").end(await read(file));
        });
    },
  };
}

/** socket.io-client as Node's servers serve it: `/socket.io/socket.io.js` and its other builds. */
function socketIoClient(): Plugin {
  const dist = new URL("node_modules/socket.io-client/dist/", import.meta.url);
  return {
    name: "tidings:socket.io-client",
    async generateBundle() {
      for (const file of await readdir(dist))
        this.emitFile({
          type: "asset",
          fileName: `socket.io/${file}`,
          source: new Uint8Array(await readFile(new URL(file, dist))),
        });
    },
  };
}

/** Where the build puts what it takes of Inter. */
const FONTS = fileURLToPath(new URL("node_modules/.fonts", import.meta.url));
const INTER = new URL("node_modules/@fontsource-variable/inter/", import.meta.url);
/** The first is a part of the first load; the others come with their first letter, as base.css says by `unicode-range`. */
const LETTERS: Record<string, { from: string; ranges: readonly [number, number][]; more: string }> = {
  "inter-first": { from: "latin", ranges: [[0x20, 0x7e]], more: "\u00a0·–—‘’“”•…€←↑→↓" },
  "inter-latin": { from: "latin", ranges: [[0xa1, 0xff]], more: "ıŒœŠšŸŽž‚„†‹›™−" },
  "inter-europe": { from: "latin-ext", ranges: [[0x100, 0x17f]], more: "ȘșȚțẞ" },
};

/** Inter in the weights and letters that the page has: a third of its size. */
function inter(): Plugin {
  return {
    name: "tidings:inter",
    async buildStart() {
      await mkdir(FONTS, { recursive: true });
      for (const [name, { from, ranges, more }] of Object.entries(LETTERS)) {
        const whole = await readFile(new URL(`files/inter-${from}-wght-normal.woff2`, INTER));
        const letters = ranges.flatMap(([first, last]) =>
          Array.from({ length: last - first + 1 }, (_, at) => String.fromCodePoint(first + at)),
        );
        const part = await subsetFont(whole, letters.join("") + more, {
          targetFormat: "woff2",
          variationAxes: { wght: { min: 400, max: 600 } },
          keepFeatures: ["tnum"],
        });
        await writeFile(`${FONTS}/${name}.woff2`, part);
      }
    },
    async generateBundle() {
      const source = JSON.stringify({ Inter: await readFile(new URL("LICENSE", INTER), "utf8") });
      this.emitFile({ type: "asset", fileName: "licenses.json", source });
    },
    transformIndexHtml(_, { bundle }) {
      const href = Object.keys(bundle ?? {}).find((file) => file.startsWith("assets/inter-first"));
      if (href === undefined) return;
      const attrs = { rel: "preload", as: "font", type: "font/woff2", crossorigin: true, href: `./${href}` };
      return [{ tag: "link", attrs, injectTo: "head" }];
    },
  };
}

/** The languages of `<t>` in index.html, beside English. */
const LOCALES = fileURLToPath(new URL("../client_demo/tidings_chat/locale", import.meta.url));

interface Translations {
  readonly headers: Readonly<Record<string, string>>;
  readonly translations: Readonly<Record<string, Readonly<Record<string, Translation>>>>;
}
interface Translation {
  readonly msgid: string;
  readonly msgstr: readonly string[];
  readonly comments?: { readonly reference?: string };
}

/** A catalogue of translations as a module, without the texts of the terminal; and those of `<t>` in index.html. */
function translations(): Plugin {
  return {
    name: "tidings:translations",
    transform(source, id) {
      if (!id.endsWith(".po")) return;
      const { headers, translations } = po.parse(source) as Translations;
      const texts = Object.values(translations[""] ?? {}).filter(({ comments }) =>
        comments?.reference?.split(/\s/).some((file) => !file.startsWith("client_demo/")),
      );
      const messages = {
        "": { plural_forms: headers["Plural-Forms"] },
        ...Object.fromEntries(texts.map(({ msgid, msgstr }) => [msgid, msgstr])),
      };
      const ofServer = texts
        .filter(({ msgid, comments }) => msgid.includes("{") && comments?.reference?.includes("server/"))
        .map(({ msgid }) => [msgid, msgid.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{(\w+)\}/g, "(?<$1>.+)")]);
      return `import Tannin from "tannin";
        export default new Tannin(${JSON.stringify({ messages })});
        export const ofServer = ${JSON.stringify(ofServer)};`;
    },
    async transformIndexHtml(html) {
      const files = (await readdir(LOCALES)).filter((file) => file.endsWith(".po"));
      const languages = await Promise.all(
        files.map(async (file) => ({
          code: file.replace(".po", ""),
          texts: (po.parse(await readFile(`${LOCALES}/${file}`)) as Translations).translations[""],
        })),
      );
      return html.replace(/<t>(.*?)<\/t>/g, (_, text: string) =>
        [{ code: "en", texts: undefined }, ...languages]
          .map(({ code, texts }) => `<span lang="${code}">${texts?.[text]?.msgstr[0] || text}</span>`)
          .join(""),
      );
    },
  };
}

/** `shell.json`: what the service worker keeps, so that the page opens without a server. */
function shellList(): Plugin {
  return {
    name: "tidings:shell-list",
    enforce: "post",
    generateBundle(_, bundle) {
      const files = Object.keys(bundle).filter((file) => file.startsWith("assets/"));
      this.emitFile({ type: "asset", fileName: "shell.json", source: JSON.stringify(files.sort()) });
    },
  };
}

/** `NAME.br` beside each script and style, a sixth smaller than by gzip: Python's library has no Brotli. */
function brotli(): Plugin {
  return {
    name: "tidings:brotli",
    apply: "build",
    async writeBundle({ dir }, bundle) {
      for (const file of Object.keys(bundle).filter((name) => /\.(css|js|json)$/.test(name)))
        await writeFile(`${dir}/${file}.br`, brotliCompressSync(await readFile(`${dir}/${file}`)));
    },
  };
}

const [MAIN, CHAT] = ["src/main.tsx", "src/views/SignedIn.tsx"].map((file) =>
  fileURLToPath(new URL(file, import.meta.url)),
) as [string, string];

/** A module and all that it imports, without what is loaded on demand. */
function staticImports(id: string, modules: Rolldown.ChunkingContext, found = new Set<string>()): Set<string> {
  if (found.has(id)) return found;
  found.add(id);
  for (const imported of modules.getModuleInfo(id)?.importedIds ?? []) staticImports(imported, modules, found);
  return found;
}

export default defineConfig({
  base: "./", // the server may be mounted below a prefix
  plugins: [react(), inter(), emojiData(), socketIoClient(), translations(), shellList(), brotli()],
  resolve: {
    // One copy, of this lock, also for the library's source.
    dedupe: ["socket.io-client", "tannin"],
    alias: [
      { find: "@fonts", replacement: FONTS },
      { find: /^@tidings\/client$/, replacement: `${CLIENT}/index.ts` },
      { find: "@tidings/client/errors", replacement: `${CLIENT}/errors.ts` },
      { find: "decode-named-character-reference", replacement: REFERENCES },
      { find: /^\.\/lib\/html-(flow|text)\.js$/, replacement: NO_HTML },
    ],
  },
  build: {
    // Inside the Python package, so that a checkout and a wheel find it at the same place.
    outDir: "../server/tidings/static",
    emptyOutDir: true,
    target: "es2023",
    modulePreload: { polyfill: false },
    rolldownOptions: {
      input: { index: "index.html", sw: "src/sw.ts" },
      output: {
        entryFileNames: (chunk) => (chunk.name === "sw" ? "sw.js" : "assets/[name]-[hash].js"),
        // Two files for the first load: that is smaller than the same code in nine.
        codeSplitting: {
          groups: [
            { name: (id, modules) => (staticImports(MAIN, modules).has(id) ? "index" : null), priority: 1 },
            {
              // Ariakit's index names the tabs too, which only the settings use.
              test: (id) => !id.includes("/tab/"),
              name: (id, modules) => (staticImports(CHAT, modules).has(id) ? "SignedIn" : null),
            },
          ],
        },
      },
    },
  },
  server: { proxy: { "/api": SERVER, "/socket.io": { target: SERVER, ws: true } } },
  test: {
    projects: [
      { extends: true, test: { name: "screenshots", include: ["e2e/**/*.shots.ts"], testTimeout: 120_000 } },
      { extends: true, test: { name: "unit", include: ["tests/**/*.test.ts"], testTimeout: 60_000 } },
      {
        extends: true,
        test: {
          name: "browser",
          include: ["e2e/**/*.test.ts"],
          // Each worker has one server and one browser for all its files.
          isolate: false,
          maxWorkers: 2,
          testTimeout: 120_000,
          hookTimeout: 120_000,
          expect: { poll: { timeout: 30_000 } },
        },
      },
    ],
  },
});
