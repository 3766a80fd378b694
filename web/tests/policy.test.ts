/** The pages' Content-Security-Policy allows their own work and blocks injected content. */

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import type { Page } from "playwright-core";
import { ask, DIST, inBrowser, PATIENCE, until, withServer } from "./browser.js";

const PAGES = (await readdir(DIST)).filter((name) => name.endsWith(".html"));

/** Records violations of the page's policy from before its first script on. */
async function watchViolations(page: Page): Promise<() => Promise<string[]>> {
  await page.addInitScript(() => {
    const violations: string[] = [];
    addEventListener("securitypolicyviolation", (event) => violations.push(`${event.effectiveDirective} ${event.blockedURI}`));
    Object.assign(window, { violations });
  });
  return () => page.evaluate(() => (window as unknown as { violations: string[] }).violations);
}

test("pages have no inline scripts or styles", async () => {
  assert.deepEqual(PAGES.sort(), ["index.html", "parity.html"]);
  for (const name of PAGES) {
    const html = await readFile(join(DIST, name), "utf8");
    const policy = html.indexOf("Content-Security-Policy");
    assert.ok(policy > 0 && policy < html.search(/<(script|link|style|img)/), `${name}: the policy comes first`);
    assert.doesNotMatch(html, /<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:/i, name);
  }
});

test("loading, drawing and comparing obey the policy", () => withServer((server) => inBrowser(async (_, page) => {
  const violations = await watchViolations(page);
  await page.goto(`${server.origin}/#backend=webgpu`);
  await until(page, "ready");
  await ask(page, { prompt: "a red fox", width: 64, height: 64, steps: 1, seed: 1 });
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  assert.deepEqual(await violations(), []);
  await page.goto(`${server.origin}/parity.html#filter=norm`);
  await page.click("#run");
  await until(page, "passed");
  assert.deepEqual(await violations(), []);
})));

for (const name of PAGES) test(`${name} blocks injected content`, () => withServer((server) => withServer((elsewhere) => inBrowser(async (_, page) => {
  const violations = await watchViolations(page);
  elsewhere.replaced.set("/evil.js", Buffer.from("window.harmed = 'a script from elsewhere'"));
  await page.goto(`${server.origin}/${name}`);
  await page.evaluate((evil) => {
    const add = (tag: string, properties: object) => {
      const element = Object.assign(document.createElement(tag), properties);
      document.body.append(element);
      return element;
    };
    add("script", { textContent: "window.harmed = 'an inline script'" });
    add("script", { src: `${evil}/evil.js` });
    add("div", { innerHTML: "<img src=x onerror=\"window.harmed = 'a handler'\">" });
    add("style", { textContent: "body { display: none }" });
    add("img", { src: `${evil}/pixel.png` });
    add("iframe", { src: `${evil}/frame.html` });
    add("base", { href: `${evil}/` });
    (add("form", { action: `${evil}/form`, method: "post" }) as HTMLFormElement).submit();
  }, elsewhere.origin);
  const refused = ["script-src-elem inline", `script-src-elem ${elsewhere.origin}/evil.js`, "script-src-attr inline", "style-src-elem inline",
    `img-src ${elsewhere.origin}/pixel.png`, `frame-src ${elsewhere.origin}`, `base-uri ${elsewhere.origin}/`, `form-action ${elsewhere.origin}/form`];
  await page.waitForFunction((count) => (window as unknown as { violations: string[] }).violations.length >= count, refused.length);
  assert.deepEqual((await violations()).sort(), refused.sort());
  assert.equal(await page.evaluate(() => (window as unknown as { harmed?: string }).harmed), undefined);
  assert.deepEqual(elsewhere.asked, []);
}, { gpu: false }))));
