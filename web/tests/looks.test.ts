/** The page's looks and use: screenshots for the README, the keyboard, and findings of axe. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { test } from "node:test";
import type { Page } from "playwright-core";
import { ask, inBrowser, PATIENCE, SCREENSHOTS, until, withServer } from "./browser.js";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

interface Finding {
  id: string;
  impact: string;
  nodes: { html: string }[];
}

/** Findings of axe that are serious or worse. */
async function findings(page: Page): Promise<string[]> {
  // The pages' own policy allows no script that is not the site's.
  await page.evaluate(axe);
  const found = await page.evaluate(() => {
    const { axe } = window as unknown as { axe: { run(): Promise<{ violations: Finding[] }> } };
    return axe.run();
  });
  const serious = found.violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  return serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
}

async function drawn(page: Page, origin: string, prompt: string, seed: number): Promise<void> {
  // The processor is faster than a software GPU.
  await page.goto(`${origin}/#backend=cpu`);
  await until(page, "ready");
  await ask(page, { prompt, seed });
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
}

/** True if no part of the page is wider than the screen. */
async function fits(page: Page): Promise<boolean> {
  return page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth);
}

test("the page passes axe wide, dark and narrow", () => withServer((server) => inBrowser(async (_, page) => {
  await drawn(page, server.origin, "a red fox on a green background", 7);
  await ask(page, { prompt: "a rocket on a blue background", seed: 3 });
  await page.waitForSelector("#history li:nth-child(2)", { timeout: PATIENCE });
  await page.click("#history li:last-child button");
  await page.screenshot({ path: `${SCREENSHOTS}/wide.jpg`, quality: 85 });
  assert.deepEqual(await findings(page), []);
  await page.emulateMedia({ colorScheme: "dark" });
  await page.click("#more summary");
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: `${SCREENSHOTS}/dark.jpg`, quality: 85 });
  assert.deepEqual(await findings(page), []);
  await page.click("#more summary");
  await page.emulateMedia({ colorScheme: "light" });
  for (const width of [320, 390]) {
    await page.setViewportSize({ width, height: 844 });
    assert.ok(await fits(page), `${width} pixels wide`);
  }
  await page.screenshot({ path: `${SCREENSHOTS}/narrow.jpg`, quality: 85, fullPage: true });
  await page.click("#model summary");
  assert.deepEqual(await findings(page), []);
  // An error state with action buttons.
  await page.goto(`${server.origin}/#${new URLSearchParams({ model: "https://example.org/a/" })}`);
  await page.reload();
  await page.waitForSelector("#notice:not([hidden])");
  assert.deepEqual(await findings(page), []);
}, { viewport: { width: 1200, height: 960 } })));

test("the conformance page passes axe", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/parity.html#filter=norm`);
  await page.click("#run");
  await until(page, "passed");
  await page.screenshot({ path: `${SCREENSHOTS}/parity.jpg`, quality: 85 });
  assert.deepEqual(await findings(page), []);
  await page.setViewportSize({ width: 320, height: 640 });
  assert.ok(await fits(page), "320 pixels wide");
}, { viewport: { width: 1000, height: 700 } })));

test("the page works from the keyboard alone", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/#backend=cpu`);
  await until(page, "ready");
  const focused = () => page.evaluate(() => document.activeElement?.id ?? "");
  const to = async (id: string) => {
    for (let presses = 0; presses < 40; presses++) {
      if ((await focused()) === id) return;
      await page.keyboard.press("Tab");
    }
    assert.fail(`Tab does not lead to #${id}`);
  };
  const fill = async (id: string, value: string) => {
    await to(id);
    await page.keyboard.press("Control+A");
    await page.keyboard.type(value);
  };
  assert.equal(await focused(), "prompt", "the prompt has the focus at once");
  await page.keyboard.type("a red fox");
  for (const [id, value] of [["width", "64"], ["height", "64"], ["steps", "40"]] as const) await fill(id, value);
  await to("draw");
  await page.keyboard.press("Enter");
  await until(page, "drawing");
  await page.keyboard.press("Escape");
  await until(page, "ready");
  await fill("steps", "1");
  // Enter draws from any field.
  await page.keyboard.press("Enter");
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  await to("download");
  const download = page.waitForEvent("download");
  await page.keyboard.press("Enter");
  assert.match((await download).suggestedFilename(), /^a-red-fox-\d+\.png$/);
})));
