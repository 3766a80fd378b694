/** The module in another page, its heap, its download size, and the conformance page. */

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { differing, DIST, embed, HEAP, inBrowser, PATIENCE, until, withServer } from "./browser.js";

/** The bar of wasm and scripts, gzipped, in bytes. */
const SCRIPTS = 4e6;
/** The bar of everything that a first visit fetches: the page gzipped, and the embedded model's files as they are. */
const VISIT = 11e6;

test("another page draws within the heap's bar", (t) => withServer((server) => withServer((elsewhere) => inBrowser(async (_, page) => {
  const readme = await readFile(join(DIST, "../README.md"), "utf8");
  const example = /```html\n([^]*?)```/.exec(readme)?.[1];
  assert.ok(example, "web/README.md shows how to embed the module");
  server.replaced.set("/embedding.html", Buffer.from(example.replace("https://example.org/zimage/", `${elsewhere.origin}/`)));
  await page.goto(`${server.origin}/embedding.html`);
  await page.waitForSelector("img", { timeout: PATIENCE });
  assert.ok(elsewhere.weights.length > 0 && server.weights.length === 0, "module and model came from the other site");
  const seen = await page.evaluate(async () => {
    const module = "./zimage.js";
    const { ZImage } = (await import(new URL(module, location.href).href)) as typeof import("../dist/zimage.js");
    const zimage = await ZImage.load({ backend: "webgpu" });
    const steps: number[] = [];
    const previews: string[] = [];
    const request = { prompt: "a red fox", width: 64, height: 64, steps: 3, seed: 1 };
    const run = zimage.draw(request, {
      preview: true,
      onProgress: ({ stage, done, preview }) => {
        if (stage === "step") steps.push(done);
        if (preview) previews.push(`${preview.width}×${preview.height}`);
      },
    });
    const second = await zimage.draw(request).catch((error) => `${error.name} ${error.kind}: ${error.message}`);
    const { pixels, width, info } = await run;
    const heap = zimage.heapBytes;
    const aborted = AbortSignal.abort();
    const cancelled = await zimage.draw(request, { signal: aborted }).catch((error) => error.kind);
    zimage.dispose();
    const ended = await zimage.draw(request).catch((error) => error.kind);
    const nothing = await ZImage.load({ model: "nothing/here/" }).then(String, (error) => `${error.kind}: ${error.message}`);
    return { steps, previews, second, pixels: pixels.data.length, width, info, heap, cancelled, ended, nothing };
  });
  assert.deepEqual(seen.steps, [0, 1, 2, 3]);
  assert.deepEqual(seen.previews, ["8×8", "8×8", "8×8"]);
  assert.equal(seen.second, "ZImageError request: the engine is busy; wait for it, or cancel it");
  assert.equal(seen.pixels, 4 * 64 * 64);
  assert.deepEqual([seen.info.prompt, seen.info.seed, seen.info.steps, seen.width], ["a red fox", 1, 3, 64]);
  assert.deepEqual([seen.cancelled, seen.ended], ["cancelled", "request"]);
  assert.match(seen.nothing, /^files: .*model_index\.json/);

  const files = await readdir(DIST, { recursive: true });
  const bytes = async (pattern: RegExp, size: (content: Buffer) => number) => {
    const sizes = files.filter((file) => pattern.test(file)).map(async (file) => size(await readFile(join(DIST, file))));
    return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
  };
  const gzipped = (content: Buffer) => gzipSync(content).length;
  const scripts = await bytes(/\.(js|wasm)$/, gzipped);
  const visit = scripts + (await bytes(/^(index\.html|.*\.css)$/, gzipped)) + (await bytes(/\.(json|safetensors)$/, ({ length }) => length));
  t.diagnostic(`wasm and scripts, gzipped: ${(scripts / 1e6).toFixed(2)} MB (bar: ${SCRIPTS / 1e6} MB)`);
  t.diagnostic(`page and model, gzipped without the model's files: ${(visit / 1e6).toFixed(2)} MB (bar: ${VISIT / 1e6} MB)`);
  t.diagnostic(`peak of the wasm heap on webgpu, loading and drawing 64×64: ${(seen.heap / 1e6).toFixed(0)} MB (bar: ${HEAP / 1e6} MB)`);
  assert.ok(seen.heap > 0 && seen.heap <= HEAP, `${seen.heap} bytes`);
  assert.ok(scripts <= SCRIPTS, `${scripts} bytes`);
  assert.ok(visit <= VISIT, `${visit} bytes`);
}))));

test("a folder handle's model draws without network", () => withServer((server) => inBrowser(async (_, page) => {
  await embed(page, server);
  const paths = (await readdir(join(DIST, "models/emoji"), { recursive: true })).filter((path) => /\.(json|safetensors)$/.test(path));
  // No test can press a button in the browser's own picker; its private file system has handles of
  // the same kind.
  await page.evaluate(async (paths) => {
    const picked = await (await navigator.storage.getDirectory()).getDirectoryHandle("picked", { create: true });
    for (const path of paths) {
      const folders = ["models", "emoji", ...path.split("/")];
      const name = folders.pop()!;
      let folder = picked;
      for (const inner of folders) folder = await folder.getDirectoryHandle(inner, { create: true });
      const file = await folder.getFileHandle(name, { create: true });
      await (await fetch(`models/emoji/${path}`)).body!.pipeTo(await file.createWritable());
    }
  }, paths);
  const drawn = (picked: boolean) => page.evaluate(async (picked) => {
    const handle = await (await navigator.storage.getDirectory()).getDirectoryHandle("picked");
    const loaded = await zimage.ZImage.load({ backend: "cpu", ...(picked ? { model: handle } : {}) });
    const { pixels } = await loaded.draw({ prompt: "a red fox", width: 64, height: 64, steps: 1, seed: 1 });
    loaded.dispose();
    return { model: loaded.info.model, width: pixels.width, height: pixels.height, values: Array.from(pixels.data) };
  }, picked);
  server.reset();
  const seen = await drawn(true);
  assert.deepEqual(server.asked.filter(({ path }) => path.startsWith("/models/")), []);
  assert.deepEqual([seen.model, seen.width, seen.height, seen.values.length], ["emoji", 64, 64, 4 * 64 * 64]);
  assert.equal(differing(seen.values, (await drawn(false)).values), 0, "values that the model on the server draws otherwise");

  const refused = await page.evaluate(async () => {
    let folder = await navigator.storage.getDirectory();
    for (const inner of ["picked", "models", "emoji", "vae"]) folder = await folder.getDirectoryHandle(inner);
    return zimage.ZImage.load({ model: folder }).then(String, (error) => `${error.name} ${error.kind}: ${error.message}`);
  });
  const problem = "pick the one with model_index.json, transformer, text_encoder, tokenizer, vae and scheduler";
  assert.equal(refused, `ZImageError files: this folder does not hold a diffusers model: ${problem}`);
})));

test("a too large picture leaves the engine usable", () => withServer((server) => inBrowser(async (_, page) => {
  await embed(page, server);
  const seen = await page.evaluate(async (patience) => {
    const loaded = await zimage.ZImage.load({ backend: "webgpu" });
    const request = { prompt: "a red fox", steps: 1, seed: 1 };
    const { maxWidth, maxHeight } = loaded.info.limits;
    const largest = loaded.draw({ ...request, width: maxWidth, height: maxHeight, guidance: 1 });
    // A GPU that accepts the picture would draw for hours.
    const refused = await Promise.race([largest, new Promise((resolve) => setTimeout(resolve, patience, "nothing"))])
      .then(String, (error) => `${error.name} ${error.kind} ${error.reason}: ${error.message}`);
    const { pixels } = await loaded.draw({ ...request, width: 64, height: 64 });
    return { refused, width: pixels.width, height: pixels.height, colours: new Set(new Uint32Array(pixels.data.buffer)).size };
  }, 60_000);
  const sentence = /^ZImageError device memory: .* takes [\d.]+ MiB, and .* allows [\d.]+ MiB for one buffer$/;
  assert.match(seen.refused, sentence);
  assert.deepEqual([seen.width, seen.height], [64, 64]);
  assert.ok(seen.colours > 100, `${seen.colours} colours`);
})));

test("networks in turn draw the same picture from storage", () => withServer((server) => inBrowser(async (_, page) => {
  await embed(page, server);
  const drawn = (offload: "none" | "sequential") => page.evaluate(async (offload) => {
    const loaded = await zimage.ZImage.load({ backend: "cpu", offload });
    const request = { prompt: "a red fox", width: 64, height: 64, steps: 2, seed: 3 };
    const pictures: number[][] = [];
    const stages = new Set<string>();
    for (let i = 0; i < 2; i++) {
      const picture = await loaded.draw(request, { onProgress: ({ stage }) => stages.add(stage) });
      pictures.push([...picture.pixels.data]);
    }
    const { info } = loaded;
    loaded.dispose();
    return { offload: info.offload, pictures, stages: [...stages] };
  }, offload);
  const turns = await drawn("sequential");
  const sent = server.sent;
  const again = await drawn("sequential");
  assert.equal(server.sent, sent, "the transformer was stored while it was loaded for a picture");
  const whole = await drawn("none");
  assert.equal(server.sent, sent);
  assert.deepEqual([turns.offload, again.offload, whole.offload], ["sequential", "sequential", "none"]);
  assert.ok(turns.stages.includes("load") && !whole.stages.includes("load"), `${turns.stages}`);
  for (const picture of [...turns.pictures, ...again.pictures]) assert.equal(differing(picture, whole.pictures[0]!), 0);
})));

const SHADERS = { webgpu: "shaders for the processor", "webgpu:plain": "plain shaders" };
for (const [backend, shaders] of Object.entries(SHADERS)) test(`${backend} agrees with cpu op by op`, {
  // Native software GPUs run the plain shaders in any case.
  skip: backend !== "webgpu" && !process.env["ZIMAGE_SLOW"] && "the plain shaders are slow on a software GPU; tests/run --all runs them",
}, (t) => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/parity.html#backend=${backend}`);
  const start = performance.now();
  await page.click("#run");
  await until(page, "passed", "failed", "stopped");
  const words = await page.innerText("#status");
  const failures = await page.innerText("main");
  assert.equal(await page.getAttribute("body", "data-state"), "passed", failures);
  assert.match(await page.innerText("#device"), new RegExp(`^webgpu \\(.*, ${shaders}\\) against cpu `));
  const ops = await page.locator("tbody th").allInnerTexts();
  const verdicts = await page.locator("tbody td:last-child").allInnerTexts();
  assert.ok(ops.length >= 20, `${ops}`);
  assert.deepEqual([...new Set(verdicts)], ["pass"]);
  for (const op of ["linear", "attention", "conv2d", "residual_norm", "rejections", "replay"]) assert.ok(ops.includes(op), `${op} in ${ops}`);
  t.diagnostic(`${words} ${((performance.now() - start) / 1000).toFixed(0)} s, ${ops.length} rows`);
})));
