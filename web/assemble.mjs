// Makes the static folder `dist/` complete around what `tsc` compiles: the wasm, the pages, and the embedded default's
// files. `--clean` removes what an earlier build left, so that none of it is served or run.

import { cp, mkdir, rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const web = new URL(".", import.meta.url);
const dist = new URL("dist/", web);

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
}
