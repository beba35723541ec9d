/**
 * 200 hostile files: scripts in every dress, bombs, false types, broken images, names that are paths. Each is uploaded,
 * opened, embedded and shown in a real browser. None runs, and the server needs no more memory than it is given.
 */
import { readdir, readFile } from "node:fs/promises";
import { deflateSync, gzipSync } from "node:zlib";
import type { Page } from "playwright-core";
import { chunk, png } from "./support/png.ts";
import { expect, test } from "./support/world.ts";

const COUNT = 200;
/** MiB that the server may need beside what it had at the start; and one process that examines an image */
const [SERVER_MAY_GROW, EXAMINER_MAY_HAVE] = [150, 1024];
/** What a script does that runs: a request that the tests see */
const OWNED = "fetch('/owned?'+location.href);document.title='owned';alert(1)";
const SCRIPT = `<script>${OWNED}</script>`;
const HTML = `<!doctype html><title>x</title>${SCRIPT}<img src=x onerror="${OWNED}"><body onload="${OWNED}">`;
const SVG = `<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload="${OWNED}">${SCRIPT}
  <foreignObject width="9" height="9"><body xmlns="http://www.w3.org/1999/xhtml" onload="${OWNED}">${SCRIPT}</body></foreignObject>
  <a href="javascript:${OWNED}"><animate attributeName="href" to="javascript:${OWNED}" begin="0s"/><text>x</text></a></svg>`;

interface Hostile {
  readonly name: string;
  readonly content: Buffer;
}

/** A GIF with frames of one pixel, on a screen of any size. */
function gif(width: number, height: number, frames: number, comment = ""): Buffer {
  const screen = Buffer.from([0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
  screen.writeUInt16LE(width, 0);
  screen.writeUInt16LE(height, 2);
  const said = comment.match(/.{1,200}/gs) ?? [];
  const comments = said.map((part) => Buffer.from(`!\xfe${String.fromCharCode(part.length)}${part}\0`, "latin1"));
  const frame = Buffer.from([0x21, 0xf9, 4, 0, 1, 0, 0, 0, 0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0]);
  return Buffer.concat([
    Buffer.from("GIF89a"),
    screen,
    ...comments,
    ...Array.from({ length: frames }, () => frame),
    Buffer.from(";"),
  ]);
}

/** Numbers that look random, the same in each run. */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

function hostileFiles(photo: Buffer): Hostile[] {
  const text = (value: string) => Buffer.from(value, "utf8");
  const utf16 = Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from(HTML, "utf16le")]);
  const endings = ["html", "svg", "png", "jpg", "gif", "webp", "txt", "pdf", "mp4", "js", "xml", "htaccess"];
  const dresses: readonly Buffer[] = [
    text(HTML),
    text(SVG),
    text(
      `<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="#x"?><html xmlns="http://www.w3.org/1999/xhtml">${SCRIPT}</html>`,
    ),
    text(`GIF89a/*${HTML}*/=1;${OWNED}`),
    text(`+ADw-script+AD4-${OWNED}+ADw-/script+AD4-`),
    utf16,
  ];
  const files: Hostile[] = [];
  for (const ending of endings)
    for (const [at, content] of dresses.entries()) files.push({ name: `dress ${at}.${ending}`, content });
  // Images that are real, and something else as well
  files.push(
    { name: "polyglot.gif", content: gif(1, 1, 1, HTML) },
    {
      name: "comment.png",
      content: png(8, 8, chunk("tEXt", text(`Comment\0${HTML}`)), chunk("iTXt", text(`x\0\0\0\0\0${SVG}`))),
    },
    { name: "after.png", content: Buffer.concat([png(8, 8), text(HTML)]) },
    { name: "after.jpg.html", content: Buffer.concat([photo, text(HTML)]) },
    { name: "archive.png", content: Buffer.concat([png(8, 8), gzipSync(text(HTML))]) },
    { name: "script.js", content: text(OWNED) },
    { name: "style.css", content: text(`@import "/owned?css";body{background:url(/owned?css)}`) },
    { name: "worker.js", content: text(`self.addEventListener("fetch", () => ${OWNED});${OWNED}`) },
    {
      name: "form.pdf",
      content: text(
        `%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\ntrailer<</Root 1 0 R>>`,
      ),
    },
    {
      name: "page.mhtml",
      content: text(
        `MIME-Version: 1.0\nContent-Type: multipart/related; boundary=x\n\n--x\nContent-Type: text/html\n\n${HTML}\n--x--`,
      ),
    },
    { name: "film.mp4", content: Buffer.concat([Buffer.from("0000001866747970", "hex"), text(`isommp42${HTML}`)]) },
    { name: "sound.wav", content: Buffer.concat([text("RIFF"), Buffer.alloc(4), text(`WAVEfmt ${HTML}`)]) },
    { name: "link.url", content: text("[InternetShortcut]\nURL=javascript:alert(1)") },
  );
  // Bombs
  files.push(
    { name: "huge.png", content: png(60_000, 60_000) },
    { name: "wide.png", content: png(2 ** 31 - 1, 1) },
    { name: "tall.png", content: png(1, 60_000) },
    { name: "almost.png", content: png(7_071, 7_071) },
    { name: "frames.gif", content: gif(1, 1, 20_000) },
    { name: "screens.gif", content: gif(65_535, 65_535, 3) },
    { name: "large frames.gif", content: gif(4_000, 4_000, 200) },
    {
      name: "text.png",
      content: png(8, 8, chunk("zTXt", Buffer.concat([text("x\0\0"), deflateSync(Buffer.alloc(200_000_000))]))),
    },
    {
      name: "profile.png",
      content: png(8, 8, chunk("iCCP", Buffer.concat([text("x\0\0"), deflateSync(Buffer.alloc(200_000_000))]))),
    },
    { name: "zip.gz", content: gzipSync(Buffer.alloc(100_000_000)) },
  );
  // Names
  for (const name of [
    "../../../../etc/passwd",
    "..\\..\\windows\\system.ini",
    "/etc/shadow",
    "C:\\CON",
    ".htaccess",
    "..",
    "%2e%2e%2f%2e%2e%2fx.html",
    `<img src=x onerror="${OWNED}">.png`,
    `"><script>${OWNED}</script>`,
    "javascript:alert(1)",
    "a\r\nContent-Type: text/html\r\n\r\n<script>alert(1)</script>",
    'x"; filename="evil.html',
    "x;filename*=utf-8''evil.html",
    "photo\u202Egpj.html",
    "photo.png\u0000.html",
    "?ticket=none&preview=1",
    "#/room/none",
    `${"ñ".repeat(250)}.svg`,
    "\u{1F4A9}\uFEFF\u200B.html",
    "name.html.",
    "NUL.txt::$DATA",
  ])
    files.push({ name, content: text(HTML) });
  // Broken images
  const next = numbers(7);
  const whole = [photo, png(64, 64), gif(32, 32, 5), photo];
  for (let at = 0; files.length < COUNT; at++) {
    const broken = Buffer.from(whole[at % whole.length] as Buffer);
    for (let many = 1 + Math.floor(next() * 12); many > 0; many--)
      broken[Math.floor(next() * next() * broken.length)] = Math.floor(next() * 256);
    const cut = at % 3 === 0 ? broken.subarray(0, Math.floor(next() * broken.length)) : broken;
    files.push({
      name: `broken ${at}.${["png", "jpg", "gif", "avif"][at % 4]}`,
      content: Buffer.concat([cut, text(HTML)]),
    });
  }
  return files;
}

/** MiB of a process: the most that it had. */
async function most(pid: string): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024;
}

/** Watch what the processes that the server starts have, until it is told to stop; answers the most of one. */
function watchChildren(server: number): () => Promise<number> {
  let [goesOn, seen] = [true, 0];
  const watching = (async () => {
    while (goesOn) {
      for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
        const status = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
        const parent = Number(status.slice(status.lastIndexOf(")") + 2).split(" ")[1]);
        if (parent === server) seen = Math.max(seen, await most(pid));
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return seen;
  })();
  return () => {
    goesOn = false;
    return watching;
  };
}

test("200 hostile files run nowhere, however they are opened, and are bounded in memory", async ({
  person,
  server,
}) => {
  const omar = await person("omar");
  const account = await omar.account();
  const topic = `hostile ${omar.name}`;
  const room_id = await account.topic(topic);
  const photo = await readFile(new URL("../public/icon-512.png", import.meta.url));
  const before = await most(`${server.pid}`);
  const children = watchChildren(server.pid);
  const ids: string[] = [];
  for (const { name, content } of hostileFiles(photo)) {
    const { id, url } = await account.ask("create_upload", { name: name.replaceAll("\0", ""), size: content.length });
    const headers = {
      authorization: `Bearer ${account.token}`,
      "content-type": "application/offset+octet-stream",
      "upload-offset": "0",
    };
    const answer = await fetch(`${server.url}/${url}`, { method: "PATCH", headers, body: new Uint8Array(content) });
    expect(answer.status, name).toBe(204);
    ids.push(id);
  }
  expect(ids.length).toBe(COUNT);
  const examiner = await children();
  const grown = (await most(`${server.pid}`)) - before;
  process.stdout.write(
    `hostile files: the server grew by ${grown.toFixed(0)} MiB, an examiner had ${examiner.toFixed(0)} MiB\n`,
  );
  expect(examiner).toBeGreaterThan(0);
  expect(examiner).toBeLessThan(EXAMINER_MAY_HAVE);
  expect(grown).toBeLessThan(SERVER_MAY_GROW);

  // In the page, as messages
  await omar.enter(topic);
  let images = 0;
  for (let at = 0; at < COUNT; at += 10) {
    const files = ids.slice(at, at + 10).map((id) => ({ id, alt: HTML.slice(0, 200) }));
    await account.ask("message", { room_id, content: `files ${at}`, files });
    const shown = omar.message(new RegExp(`files ${at}(?!\\d)`));
    await shown
      .getByRole("link", { name: /^Save / })
      .or(shown.locator(".tile"))
      .first()
      .waitFor();
    images += await shown.locator(".tile").count();
  }
  expect(images, "some are images, too").toBeGreaterThan(5);

  // Alone, and in a page that allows everything
  const { files } = await account.ask("get_files", { file_ids: ids.slice(0, 100) });
  files.push(...(await account.ask("get_files", { file_ids: ids.slice(100) })).files);
  expect(files.length).toBe(COUNT);
  const page = await omar.context.newPage();
  const ran: string[] = [];
  page.on("request", (request) => {
    if (new URL(request.url()).pathname === "/owned") ran.push(`${request.url()} from ${request.frame().url()}`);
  });
  page.on("dialog", (dialog) => {
    ran.push(dialog.message());
    void dialog.dismiss();
  });
  omar.expects(/console: |uncaught: /); // the browser says what it has refused
  await page.route("**/naive", (route) =>
    route.fulfill({ contentType: "text/html", body: "<!doctype html><title>naive" }),
  );
  for (const { url, preview_url, type } of files) {
    for (const address of preview_url === null ? [url] : [url, preview_url]) {
      await page.goto(`${server.url}/${address}`, { waitUntil: "domcontentloaded" }).catch((error: Error) => {
        expect(error.message).toMatch(/Download is starting|net::ERR_ABORTED/);
      });
      expect(page.url(), type).not.toContain("owned");
    }
  }
  await page.goto(`${server.url}/naive`);
  for (let at = 0; at < COUNT; at += 20)
    await Promise.all(files.slice(at, at + 20).map(({ url }) => embed(page, `${server.url}/${url}`)));
  expect(await page.title()).toBe("naive");
  await page.close();
  expect(ran).toEqual([]);
});

/** Embed a file in every way that could run it, and wait until each has ended. */
async function embed(page: Page, url: string): Promise<void> {
  await page.evaluate(async (url) => {
    const elements = ["img", "iframe", "object", "embed", "script", "video", "audio", "link"].map((name) => {
      const element = document.createElement(name);
      if (name === "link") Object.assign(element, { rel: "stylesheet", href: url });
      else if (name === "object") Object.assign(element, { data: url });
      else Object.assign(element, { src: url });
      return element;
    });
    const ended = elements.slice(0, 5).map(
      (element) =>
        new Promise((resolve) => {
          for (const event of ["load", "error", "abort"]) element.addEventListener(event, resolve);
          setTimeout(resolve, 300); // a download is none of them
        }),
    );
    document.body.append(...elements);
    const worker = await navigator.serviceWorker.register(url).catch(() => null);
    if (worker !== null) document.title = "a worker was registered";
    await Promise.all(ended);
    for (const element of elements) element.remove();
  }, url);
}
