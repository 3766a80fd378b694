/** Loading a model in the page: fetches, cache, and messages on a bad network. */

import assert from "node:assert/strict";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { ask, DIST, inBrowser, notice, PATIENCE, press, until, withServer } from "./browser.js";

const WEIGHTS = ["text_encoder/model", "transformer/diffusion_pytorch_model", "vae/diffusion_pytorch_model"]
  .map((name) => `/models/emoji/${name}.safetensors`);
const [, TRANSFORMER, VAE] = WEIGHTS as [string, string, string];
const sizes = await Promise.all(WEIGHTS.map(async (path) => (await stat(join(DIST, path))).size));
const total = sizes.reduce((sum, size) => sum + size, 0);

/** The first byte of each range request for one file. */
function starts(asked: { path: string; range: string | undefined }[], path: string): number[] {
  return asked.filter((one) => one.path === path).map(({ range }) => Number(/^bytes=(\d+)/.exec(range ?? "")?.[1]));
}

test("the second visit fetches no weights", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(server.origin);
  await until(page, "ready");
  assert.ok(server.sent <= total, `${server.sent} of ${total} bytes: nothing comes twice`);
  assert.ok(server.sent > total / 2, `${server.sent} of ${total} bytes`);
  assert.ok(server.weights.every(({ status }) => status === 206), "by ranges");
  server.reset();
  await page.reload();
  await until(page, "ready");
  assert.deepEqual(server.weights.filter(({ method }) => method !== "HEAD"), []);
  assert.equal(server.sent, 0);
})));

test("a slow connection shows its progress in bytes", () => withServer((server) => inBrowser(async (_, page) => {
  server.weather.rate = total / 4;
  await page.goto(server.origin);
  const seen: number[] = [];
  while ((await page.getAttribute("body", "data-state")) === "loading") {
    const words = /: ([\d.]+) MB of ([\d.]+) MB/.exec(await page.innerText("#status"));
    if (words) seen.push(Number(words[1]));
    await page.waitForTimeout(100);
  }
  await until(page, "ready");
  const apart = new Set(seen);
  assert.ok(apart.size >= 8, `saw ${[...apart]}`);
  assert.deepEqual(seen, [...seen].sort((a, b) => a - b));
})));

test("a cut connection resumes where it broke", () => withServer((server) => inBrowser(async (_, page) => {
  server.weather.cuts = [0.1, 0.4, 0.7].map((share) => share * total);
  await page.goto(server.origin);
  await until(page, "ready");
  assert.equal(server.weather.cuts.length, 0, "it was cut");
  assert.ok(server.sent < total + (2 << 20), `${server.sent} bytes of ${total}: what had come was not fetched again`);
})));

test("a dead connection fails, and fetched blocks stay", () => withServer((server) => inBrowser(async (_, page) => {
  server.weather.cuts = Array.from({ length: 40 }, () => 0.6 * total);
  await page.goto(server.origin);
  const whole = (sizes[1]! / 1e6).toFixed(1).replace(".", "\\.");
  assert.match(await notice(page), new RegExp(`diffusion_pytorch_model\\.safetensors: the connection to localhost:\\d+ was lost after [\\d.]+ of ${whole} MB`));
  const before = server.sent;
  server.weather.cuts = [];
  await press(page, "Try again");
  await until(page, "ready");
  assert.ok(before > total / 4 && server.sent < total + (2 << 20), `${before}, then ${server.sent} of ${total} bytes`);
})));

test("only a changed block is fetched again", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/#backend=cpu`);
  await until(page, "ready");
  const harmed = await page.evaluate(async (file) => {
    const root = await (await navigator.storage.getDirectory()).getDirectoryHandle("zimage");
    for await (const folder of root.values()) {
      const handle = await (folder as FileSystemDirectoryHandle).getFileHandle(encodeURIComponent(file));
      const bytes = new Uint8Array(await (await handle.getFile()).arrayBuffer());
      bytes[3 * 2 ** 20 + 77]! ^= 64;
      const writable = await handle.createWritable();
      await writable.write(bytes);
      await writable.close();
    }
    return root.name;
  }, TRANSFORMER.slice("/models/emoji/".length));
  assert.equal(harmed, "zimage");
  server.reset();
  await page.reload();
  await until(page, "ready");
  const fetched = server.weights.filter(({ method }) => method !== "HEAD").map(({ path, range }) => `${path} ${range}`);
  assert.deepEqual(fetched, [`${TRANSFORMER} bytes=${3 * 2 ** 20}-${4 * 2 ** 20 - 1}`]);
})));

test("an oversized file is refused before fetching", () => withServer((server) => inBrowser(async (_, page) => {
  server.replaced.set("/models/emoji/model_index.json", Buffer.alloc(60_000_000, 32));
  await page.goto(server.origin);
  assert.match(await notice(page), /^emoji\/model_index\.json: the server says that it has 60\.0 MB, and a file of its kind has at most 1\.0 MB\./);
  const sent = server.asked.filter(({ path }) => path.endsWith("model_index.json")).reduce((sum, { sent }) => sum + sent, 0);
  assert.ok(sent <= 2 ** 20, `${sent} bytes`);
})));

test("two tabs load one model at once", () => withServer((server) => inBrowser(async (context, page) => {
  server.weather.rate = total / 4;
  const other = await context.newPage();
  await Promise.all([page, other].map((tab) => tab.goto(`${server.origin}/#backend=cpu`)));
  await Promise.all([page, other].map((tab) => until(tab, "ready")));
  const notices = await Promise.all([page, other].map((tab) => tab.innerText("#notice")));
  assert.equal(notices.filter((words) => /^another tab has this model open/i.test(words)).length, 1, `${notices}`);
  server.reset();
  await page.reload();
  await until(page, "ready");
  assert.equal(server.sent, 0, "what one tab kept is whole");
})));

test("a server without ranges sends each file once", () => withServer((server) => inBrowser(async (_, page) => {
  server.weather.ranges = false;
  await page.goto(server.origin);
  await until(page, "ready");
  const asked = server.weights.map(({ path, status }) => `${status} ${path}`).sort();
  assert.deepEqual(asked, WEIGHTS.map((path) => `200 ${path}`).sort());
  server.reset();
  await page.reload();
  await until(page, "ready");
  assert.equal(server.sent, 0);
})));

test("broken and missing files are named and refetched", () => withServer((server) => inBrowser(async (_, page) => {
  const whole = await readFile(join(DIST, TRANSFORMER));
  const hostile = Buffer.from(whole);
  hostile.writeBigUInt64LE(1n << 62n);
  server.replaced.set(TRANSFORMER, hostile);
  await page.goto(server.origin);
  assert.match(await notice(page), /emoji\/transformer\/diffusion_pytorch_model\.safetensors: .+\./);
  server.replaced.set(TRANSFORMER, whole.subarray(0, whole.length / 2));
  await press(page, "Try again");
  await until(page, "loading");
  await until(page, "stopped");
  assert.match(await notice(page), /emoji\/transformer\/diffusion_pytorch_model\.safetensors: .+\./);
  server.replaced.set(TRANSFORMER, undefined);
  await press(page, "Try again");
  await until(page, "loading");
  await until(page, "stopped");
  assert.match(await notice(page), /^emoji\/transformer: expected diffusion_pytorch_model\.safetensors .*, found nothing\./);
  server.reset();
  await press(page, "Try again");
  await until(page, "ready");
})));

test("only a file changed between visits is refetched", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(server.origin);
  await until(page, "ready");
  server.reset();
  server.replaced.set(VAE, await readFile(join(DIST, VAE)));
  await page.reload();
  await until(page, "ready");
  const fetched = server.weights.filter(({ sent }) => sent > 0).map(({ path }) => path);
  assert.deepEqual([...new Set(fetched)], [VAE]);
  assert.equal(starts(server.weights, VAE).filter((start) => start === 0).length, 2, "asked about, then fetched");
})));

test("a file that changes during the fetch is refused", () => withServer((server) => inBrowser(async (_, page) => {
  const other = await readFile(join(DIST, TRANSFORMER));
  server.weather.cuts = [0.4 * total];
  server.weather.cut = () => server.replaced.set(TRANSFORMER, other);
  await page.goto(server.origin);
  assert.match(await notice(page), /safetensors: the file on the server has changed meanwhile; load the model again/);
  await press(page, "Try again");
  await until(page, "ready");
})));

test("a refusal quotes the server's status", () => withServer((server) => inBrowser(async (_, page) => {
  server.weather.status = 403;
  await page.goto(server.origin);
  assert.match(await notice(page), /safetensors: the server does not allow reading it \(403\)/);
})));

test("a full disk does not prevent drawing", () => withServer((server) => inBrowser(async (context, page) => {
  const session = await context.newCDPSession(page);
  await session.send("Storage.overrideQuotaForOrigin", { origin: server.origin, quotaSize: Math.round(0.4 * total) });
  await page.goto(server.origin);
  await until(page, "ready");
  assert.match(await notice(page), /^The browser has no room to keep this model/);
})));

test("cancelled loading resumes", () => withServer((server) => inBrowser(async (_, page) => {
  server.weather.rate = total / 8;
  await page.goto(server.origin);
  await page.waitForFunction(() => /: [2-9]\.\d MB of/.test(document.getElementById("status")?.textContent ?? ""));
  await page.click("#cancel");
  assert.match(await notice(page), /Loading was cancelled; what came so far is kept/);
  server.weather.rate = Infinity;
  await press(page, "Load the model");
  await until(page, "ready");
  assert.ok(server.sent < total + (2 << 20), `${server.sent} of ${total} bytes`);
})));

test("a folder picked from disk loads", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/#backend=cpu`);
  await until(page, "ready");
  server.reset();
  await page.setInputFiles("#model-files", join(DIST, "models/emoji"));
  await until(page, "loading");
  await until(page, "ready");
  assert.deepEqual(server.weights, []);
  await ask(page, { prompt: "a red fox", width: 64, height: 64, steps: 1, seed: 3 });
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  await page.setInputFiles("#model-files", join(DIST, "models/emoji/vae"));
  assert.match(await notice(page), /This folder does not hold a diffusers model: pick the one with model_index\.json/);
})));

test("a link to another site asks before loading", () => withServer((server) => withServer((elsewhere) => inBrowser(async (_, page) => {
  const model = `${elsewhere.origin}/models/emoji/`;
  await page.goto(`${server.origin}/#${new URLSearchParams({ model })}`);
  assert.ok((await notice(page)).includes(model));
  assert.deepEqual(elsewhere.asked, []);
  await press(page, "Load that model");
  await until(page, "ready");
  assert.ok(elsewhere.sent > total / 2 && server.sent === 0);
  // The page asked for missing files, and the server hid its 404 from the page.
  assert.ok(elsewhere.asked.some(({ status }) => status === 404));
}))));
