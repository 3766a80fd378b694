/** Drawing from a typed prompt on WebGPU and on the processor, compared with the command line. */

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Page } from "playwright-core";
import { ask, DEFAULTS, download, inBrowser, notice, PATIENCE, pngTexts, press, psnr, reference, SCREENSHOTS, until, withServer } from "./browser.js";

/** Bars for the embedded default on a software GPU; the time is one for two idle cores, which tests/run --all asks for. */
const SECONDS = 90;
const DECIBELS = 40;
const SLOW = Boolean(process.env["ZIMAGE_SLOW"]);
/** Steps of the picture in the default size; each takes seconds on a software GPU. */
const STEPS = SLOW ? DEFAULTS.steps : 2;

const SMALL = { width: 64, height: 64, steps: 2, seed: 5 };
const small = (prompt: string) => [prompt, "--width", "64", "--height", "64", "--steps", "2", "--seed", "5"];

/** Measures the page's longest stall in milliseconds. */
async function watchStalls(page: Page): Promise<() => Promise<number>> {
  await page.evaluate(() => {
    const watch = { last: performance.now(), worst: 0 };
    setInterval(() => {
      const now = performance.now();
      watch.worst = Math.max(watch.worst, now - watch.last);
      watch.last = now;
    }, 20);
    Object.assign(window, { watch });
  });
  return () => page.evaluate(() => (window as unknown as { watch: { worst: number } }).watch.worst);
}

test("prompt and link draw the picture of `cpu`", (t) => withServer((server) => inBrowser(async (context, page) => {
  const start = performance.now();
  await page.goto(`${server.origin}/#backend=webgpu`);
  await until(page, "ready");
  const ready = performance.now() - start;
  await page.waitForFunction(() => /^Drawing through WebGPU on .*swiftshader, shaders for the processor$/.test(document.getElementById("device")!.textContent!));
  const worst = await watchStalls(page);

  await page.click("#prompt");
  await page.keyboard.type("a red fox on a green background");
  await page.uncheck("#vary");
  await page.fill("#seed", "7");
  assert.equal(await page.inputValue("#steps"), String(DEFAULTS.steps));
  if (!SLOW) await page.fill("#steps", String(STEPS));
  const pressed = performance.now();
  await page.click("#draw");
  await page.waitForSelector("#preview:not([hidden])", { timeout: PATIENCE });
  const left = (steps: number) => new RegExp(`^Step \\d of ${steps} · about \\d+ (s|min) left$`).test(document.getElementById("status")!.textContent!);
  await page.waitForFunction(left, STEPS, { timeout: PATIENCE });
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  const seconds = (performance.now() - pressed) / 1000;

  const { name, bytes } = await download(page);
  assert.equal(name, "a-red-fox-on-a-green-background-7.png");
  const expected = await reference(["a red fox on a green background", "--seed", "7", "--steps", String(STEPS)]);
  const decibels = await psnr(page, bytes, expected);
  assert.ok(decibels >= DECIBELS, `${decibels} dB`);
  assert.equal(pngTexts(bytes).get("parameters"), pngTexts(expected).get("parameters"));
  assert.deepEqual(JSON.parse(pngTexts(bytes).get("zimage")!), JSON.parse(pngTexts(expected).get("zimage")!));
  const stalled = await worst();
  assert.ok(stalled < 1000, `the page stalled for ${stalled} ms`);

  t.diagnostic(`page load to ready: ${Math.round(ready)} ms, weights fetched from this machine`);
  t.diagnostic(`256×256 in ${STEPS} steps from the press of the button: ${seconds.toFixed(1)} s (bar of tests/run --all, for ${DEFAULTS.steps} steps: ${SECONDS} s)`);
  t.diagnostic(`against cpu: ${decibels.toFixed(1)} dB (bar: ${DECIBELS} dB)`);
  t.diagnostic(`longest stall of the page: ${Math.round(stalled)} ms`);
  const link = page.url();
  assert.ok(link.endsWith(`#prompt=a+red+fox+on+a+green+background&width=256&height=256&steps=${STEPS}&guidance=${DEFAULTS.guidance}&seed=7&backend=webgpu`), link);
  await page.screenshot({ path: `${SCREENSHOTS}/webgpu.jpg`, quality: 85 });
  const other = await context.newPage();
  const quick = link.replace(`width=256&height=256&steps=${STEPS}`, "width=64&height=64&steps=2").replace("=webgpu", "=cpu");
  await other.goto(quick);
  await other.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  const again = (await download(other)).bytes;
  const small = ["--width", "64", "--height", "64", "--steps", "2", "--seed", "7"];
  assert.ok((await psnr(other, again, await reference(["a red fox on a green background", ...small]))) >= DECIBELS);
  if (SLOW) assert.ok(seconds <= SECONDS, `${seconds} s for a picture`);
}, { viewport: { width: 1200, height: 960 } })));

test("a new run starts after cancelling", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/#backend=webgpu`);
  await until(page, "ready");
  await ask(page, { prompt: "a castle", width: 128, height: 128, steps: 200, seed: 1 });
  await page.waitForFunction(() => /^Step [2-9] of 200/.test(document.getElementById("status")!.textContent!), undefined, { timeout: PATIENCE });
  await page.keyboard.press("Escape");
  await until(page, "ready");
  assert.equal(await page.innerText("#status"), "Cancelled.");
  await ask(page, { prompt: "a red fox", ...SMALL });
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  const { bytes } = await download(page);
  assert.ok((await psnr(page, bytes, await reference(small("a red fox")))) >= DECIBELS);
  await ask(page, { prompt: "a blue elephant", ...SMALL });
  await page.waitForSelector("#history li:nth-child(2)", { timeout: PATIENCE });
  assert.equal(await page.locator("#history li").count(), 2);
  assert.equal(await page.getAttribute("#picture", "alt"), "a blue elephant");
  await page.click("#history li:last-child button");
  assert.equal(await page.getAttribute("#picture", "alt"), "a red fox");
  assert.equal(await page.inputValue("#prompt"), "a red fox");
  assert.deepEqual((await download(page)).bytes, bytes);
})));

test("guidance and negative prompt match the command line", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/#backend=webgpu`);
  await until(page, "ready");
  await page.click("#more summary");
  await ask(page, { prompt: "a red fox", negative: "red", guidance: 2.5, ...SMALL });
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  const expected = await reference([...small("a red fox"), "--guidance", "2.5", "--negative", "red"]);
  const { bytes } = await download(page);
  assert.ok((await psnr(page, bytes, expected)) >= DECIBELS);
  assert.equal(pngTexts(bytes).get("parameters"), pngTexts(expected).get("parameters"));
})));

test("the processor draws without WebGPU", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(server.origin);
  assert.match(await notice(page), /WebGPU[^]*hardware acceleration|WebGPU[^]*update/);
  await press(page, "Draw on the processor");
  await until(page, "ready");
  await page.waitForFunction(() => document.getElementById("device")!.textContent === "Drawing on the processor");
  // A busy worker can be cancelled.
  await ask(page, { prompt: "a castle", ...SMALL, steps: 500 });
  await page.waitForFunction(() => /^Step [2-9] of 500/.test(document.getElementById("status")!.textContent!), undefined, { timeout: PATIENCE });
  await page.click("#cancel");
  await until(page, "ready");
  await ask(page, { prompt: "a red fox", ...SMALL });
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  assert.ok((await psnr(page, (await download(page)).bytes, await reference(small("a red fox")))) >= DECIBELS);
  assert.match(page.url(), /&backend=cpu$/);
}, { gpu: false })));

test("a lost GPU shows a restart button", () => withServer((server) => inBrowser(async (context, page) => {
  await page.goto(`${server.origin}/#backend=webgpu`);
  await until(page, "ready");
  await ask(page, { prompt: "a castle", width: 128, height: 128, steps: 200, seed: 1 });
  await page.waitForFunction(() => /^Step [2-9] of 200/.test(document.getElementById("status")!.textContent!), undefined, { timeout: PATIENCE });
  const session = await context.browser()!.newBrowserCDPSession();
  await session.send("Browser.crashGpuProcess").catch(() => {});
  assert.match(await notice(page), /restart, and the model comes from this browser's storage/);
  server.reset();
  await press(page, "Restart");
  await until(page, "ready");
  assert.equal(server.sent, 0);
  await ask(page, { prompt: "a red fox", ...SMALL });
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
})));

test("invalid requests are refused with a sentence", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/#prompt=x&width=100&height=64&steps=1&seed=1`);
  assert.match(await notice(page), /100.*multiple of 16/);
  await until(page, "ready");
  await ask(page, { prompt: "a red fox", width: 72 });
  assert.equal(await page.evaluate(() => document.querySelector<HTMLInputElement>("#width")!.validity.stepMismatch), true);
  await until(page, "ready");
})));

test("a smaller picture draws after a too large one", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/#backend=webgpu`);
  await until(page, "ready");
  await page.click("#more summary");
  await ask(page, { prompt: "a red fox", width: 8192, height: 8192, steps: 1, guidance: 1, seed: 5 });
  const words = await notice(page);
  assert.match(words, /^The GPU has no room for this\.\s+What takes less: a smaller width and height, no guidance/);
  assert.match(words, /for one buffer\.\s/);
  assert.match(words, /Draw on the processor instead/);
  await until(page, "ready");
  await ask(page, { prompt: "a red fox", guidance: 0, ...SMALL });
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  assert.match(await notice(page), /^This model was trained for 256×256/);
  const expected = await reference([...small("a red fox"), "--guidance", "0"]);
  assert.ok((await psnr(page, (await download(page)).bytes, expected)) >= DECIBELS);
})));
