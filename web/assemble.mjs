// Completes the static folder `dist/` after `tsc`: adds the wasm, the pages, and the files of the
// embedded default, and puts the Content-Security-Policy into every page. `--clean` removes the
// files of an earlier build, so that none of them is served or run.

import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const web = new URL(".", import.meta.url);
const dist = new URL("dist/", web);

// Scripts, styles and workers are files of this folder. Pictures are blobs and data. Models may be
// on any site.
const policy = [
  "default-src 'none'", "script-src 'self' 'wasm-unsafe-eval'", "worker-src 'self'", "style-src 'self'", "img-src 'self' blob: data:",
  "connect-src 'self' https: http://localhost:* http://127.0.0.1:*", "base-uri 'none'", "form-action 'none'",
].join("; ");
// A policy in a page applies to the elements after it.
const first = '<meta charset="utf-8">';

async function guard(page) {
  const html = await readFile(page, "utf8");
  if (!html.includes(first)) throw new Error(`${page.pathname}: expected ${first} before everything that is loaded`);
  await writeFile(page, html.replace(first, `${first}\n    <meta http-equiv="Content-Security-Policy" content="${policy}">`));
}

if (process.argv.includes("--clean")) {
  for (const built of [dist, new URL(".tests/", web)]) await rm(built, { recursive: true, force: true });
} else {
  await mkdir(new URL("wasm/", dist), { recursive: true });
  const copies = [
    ["src/wasm/zimage.js", "wasm/zimage.js"],
    ["src/wasm/zimage_bg.wasm", "wasm/zimage_bg.wasm"],
    ["pages", "."],
    ["../models/emoji", "models/emoji"],
  ];
  for (const [from, to] of copies) {
    await cp(new URL(from, web), fileURLToPath(new URL(to, dist)), { recursive: true });
  }
  for (const page of (await readdir(new URL("pages/", web))).filter((name) => name.endsWith(".html"))) await guard(new URL(page, dist));
}
