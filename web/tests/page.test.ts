/** The page's state and messages when the user changes models, cancels, and looks back. */

import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { Page } from "playwright-core";
import { ask, DEFAULTS, DIST, download, inBrowser, notice, PATIENCE, press, until, withServer } from "./browser.js";

const SMALL = { width: 64, height: 64, steps: 1, seed: 5 };

/** Opens the page with the embedded model on the processor, which is faster than a software GPU. */
async function ready(page: Page, origin: string): Promise<void> {
  await page.goto(`${origin}/#backend=cpu`);
  await until(page, "ready");
}

async function drawn(page: Page, prompt: string): Promise<void> {
  const before = await page.locator("#history li").count();
  await ask(page, { prompt, ...SMALL });
  await page.waitForSelector(`#history li:nth-child(${before + 1})`, { timeout: PATIENCE });
}

async function says(page: Page, words: RegExp): Promise<void> {
  const matches = (source: string) => new RegExp(source).test(document.getElementById("status")!.textContent!);
  await page.waitForFunction(matches, words.source, { timeout: PATIENCE });
}

const values = (page: Page, ...names: string[]) => Promise.all(names.map((name) => page.inputValue(`#${name}`)));

test("another model keeps typed fields and sets defaults", () => withServer((server) => inBrowser(async (_, page) => {
  await ready(page, server.origin);
  await page.click("#more summary");
  await page.fill("#prompt", "a red fox");
  await page.fill("#negative", "red");
  await page.fill("#seed", "11");
  await page.fill("#width", "128");
  const folder = await mkdtemp(join(tmpdir(), "zimage-other-"));
  try {
    await cp(join(DIST, "models/emoji"), join(folder, "other"), { recursive: true });
    const file = join(folder, "other/zimage.json");
    await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, "utf8")), steps: 5 }));
    await page.setInputFiles("#model-files", join(folder, "other"));
    await until(page, "loading");
    await until(page, "ready");
  } finally {
    await rm(folder, { recursive: true });
  }
  assert.equal(await page.textContent("#model-name"), "other");
  assert.deepEqual(await values(page, "prompt", "negative", "seed", "width", "height", "steps"), ["a red fox", "red", "11", "128", "256", "5"]);
  assert.equal(await page.isVisible("#negative"), true);
})));

test("a link opens the further fields for a guidance that is not the model's", () => withServer((server) => inBrowser(async (context, page) => {
  const [other, usual] = [await context.newPage(), DEFAULTS.guidance];
  for (const [tab, guidance] of [[page, usual], [other, usual + 1]] as const) {
    await tab.goto(`${server.origin}/#guidance=${guidance}`);
    await until(tab, "ready");
    assert.equal(await tab.isVisible("#guidance"), guidance !== usual, `${guidance}`);
  }
})));

test("a failed load clears the model's name", () => withServer((server) => inBrowser(async (_, page) => {
  await ready(page, server.origin);
  await page.waitForFunction(() => document.getElementById("device")!.textContent!.startsWith("Drawing on the processor"));
  await page.click("#model summary");
  await page.fill("#model-url", `${server.origin}/nothing/here/`);
  await page.click("#model-load");
  assert.match(await notice(page), /model_index\.json/);
  assert.equal(await page.textContent("#model summary"), "Model: none is loaded");
  assert.equal(await page.textContent("#device"), "");
  assert.equal(await page.isVisible("#sizes"), false);
  await page.fill("#model-url", `${server.origin}/%E0%A4%A/`);
  await page.click("#model-load");
  await until(page, "stopped");
  assert.match(await notice(page), /^%E0%A4%A\/model_index\.json: the server answered 400\./);
  await press(page, "Use the small emoji model");
  await until(page, "ready");
  assert.equal(await page.textContent("#model summary"), "Model: emoji");
})));

test("cancelling restores the previous picture and its links", () => withServer((server) => inBrowser(async (_, page) => {
  await ready(page, server.origin);
  await drawn(page, "a red fox");
  const [before, link] = [await download(page), page.url()];
  await ask(page, { prompt: "a castle", ...SMALL, steps: 500 });
  await says(page, /^Step [2-9] of 500/);
  assert.equal(await page.isVisible("#result"), false);
  await page.keyboard.press("Escape");
  await until(page, "ready");
  assert.equal(await page.innerText("#status"), "Cancelled.");
  assert.deepEqual([await page.isVisible("#picture"), await page.isVisible("#preview"), await page.isVisible("#empty")], [true, false, false]);
  assert.equal(await page.getAttribute("#picture", "alt"), "a red fox");
  assert.deepEqual(await download(page), before);
  assert.equal(page.url(), link);
  assert.equal(await page.inputValue("#prompt"), "a castle", "what is typed stays as well");
})));

test("Escape during the decode drops the picture", () => withServer((server) => inBrowser(async (_, page) => {
  await ready(page, server.origin);
  await ask(page, { prompt: "a castle", ...SMALL, width: 384, height: 384 });
  await says(page, /^Decoding the picture/);
  await page.keyboard.press("Escape");
  await says(page, /^Stopping…$/);
  await page.waitForTimeout(1000);
  assert.match(await page.innerText("#status"), /^(Stopping…|Cancelled\.)$/, "no clock takes the words away");
  await until(page, "ready");
  assert.equal(await page.innerText("#status"), "Cancelled.");
  assert.deepEqual([await page.isVisible("#result"), await page.isVisible("#visit"), await page.isVisible("#empty")], [false, false, true]);
  await drawn(page, "a red fox");
})));

test("choosing a model ends the run quietly", () => withServer((server) => inBrowser(async (_, page) => {
  await ready(page, server.origin);
  await drawn(page, "a red fox");
  await ask(page, { prompt: "a castle", ...SMALL, steps: 500 });
  await says(page, /^Step [2-9] of 500/);
  await page.click("#model summary");
  await page.click("#model-embedded");
  await until(page, "loading");
  await until(page, "ready");
  assert.equal(await page.isVisible("#notice"), false);
  assert.equal(await page.getAttribute("#picture", "alt"), "a red fox");
})));

test("looking back does not change the seed box", () => withServer((server) => inBrowser(async (_, page) => {
  await ready(page, server.origin);
  await drawn(page, "a red fox");
  await drawn(page, "a blue elephant");
  for (const checked of [true, false]) {
    await page.setChecked("#vary", checked);
    await page.click("#history li:last-child button");
    assert.equal(await page.isChecked("#vary"), checked);
    assert.deepEqual(await values(page, "prompt", "seed"), ["a red fox", "5"]);
  }
})));

test("a link draws with its seed", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/#prompt=a+red+fox&width=64&height=64&steps=1&seed=9&backend=cpu`);
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  assert.match((await download(page)).name, /-9\.png$/);
  assert.equal(await page.isChecked("#vary"), false);
})));

test("an empty prompt starts no work", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/#prompt=+&backend=cpu`);
  await until(page, "ready");
  assert.equal(await page.isVisible("#visit"), false, "a link without a prompt draws nothing");
  assert.match((await page.getAttribute("#prompt", "placeholder"))!, /^Describe a picture\. For example: /);
  for (const prompt of ["", "  \n "]) {
    await ask(page, { prompt, ...SMALL });
    assert.equal(await page.innerText("#status"), "Type what you would like to see.");
    assert.equal(await page.getAttribute("body", "data-state"), "ready");
    assert.equal(await page.evaluate(() => document.activeElement?.id), "prompt");
    assert.equal(await page.evaluate(() => document.querySelector<HTMLTextAreaElement>("#prompt")!.validationMessage), "Type what you would like to see.");
  }
  await drawn(page, "a red fox");
})));

test("trained sizes are offered, others get a warning", () => withServer((server) => inBrowser(async (_, page) => {
  await ready(page, server.origin);
  const size = page.locator("#sizes").getByRole("button");
  assert.deepEqual(await size.allInnerTexts(), DEFAULTS.sizes.map((sides) => sides.join(" × ")));
  const pressed = page.locator("#sizes [aria-pressed=true]");
  assert.deepEqual(await pressed.allInnerTexts(), ["256 × 256"]);
  assert.equal(await page.isVisible("#size-hint"), false);
  await page.fill("#width", "400");
  assert.equal(await page.innerText("#size-hint"), "This model was trained for the sizes above only. Pictures of other sizes may come out broken.");
  assert.equal(await pressed.count(), 0);
  await size.getByText("384 × 256", { exact: true }).click();
  assert.deepEqual(await values(page, "width", "height"), ["384", "256"]);
  assert.deepEqual(await pressed.allInnerTexts(), ["384 × 256"]);
  assert.equal(await page.isVisible("#size-hint"), false);
})));

test("the conformance page links back", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/parity.html`);
  await page.getByRole("link", { name: "Back to drawing pictures" }).click();
  await until(page, "ready", "stopped");
  assert.equal(new URL(page.url()).pathname, "/index.html");
}, { gpu: false })));
