/** Chromium on a software GPU for the tests, and helpers for its pages. */

import { existsSync } from "node:fs";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { type BrowserContext, chromium, type Page } from "playwright-core";
import { TestServer } from "./server.js";

const web = fileURLToPath(new URL("..", import.meta.url));
export const DIST = join(web, "dist");
/** The defaults of the embedded model. */
export const DEFAULTS = JSON.parse(await readFile(join(DIST, "models/emoji/zimage.json"), "utf8")) as
  { steps: number; guidance: number; sizes: [number, number][] };
/** The folder for screenshots: `SCREENSHOTS`, or beside the compiled tests. */
export const SCREENSHOTS = process.env["SCREENSHOTS"] ?? join(web, ".tests/screenshots");
/** Timeout of a picture, or of the whole suite, on a software GPU, in milliseconds. */
export const PATIENCE = 600_000;
/** The bar of the wasm heap, in bytes. */
export const HEAP = 256e6;
const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const FLAGS = [
  "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
  "--disable-sync",
];
/** Launches of a browser, as one may crash on a busy machine before it opens a page. */
const LAUNCHES = 3;
const GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

/** The path of Chromium; `CHROMIUM` names another browser. */
function executable(): string {
  const places = (process.env["PATH"] ?? "").split(":").flatMap((folder) => NAMES.map((name) => join(folder, name)));
  const found = process.env["CHROMIUM"] ?? places.find((path) => existsSync(path));
  if (!found) throw new Error("there is no Chromium: install it (Debian: apt-get install chromium), or name it in CHROMIUM");
  return found;
}

export type Options = Parameters<typeof chromium.launchPersistentContext>[1] & {
  /** Enables the GPU; true by default. */
  gpu?: boolean;
};

/** A browser. A launch that fails is reported and tried again, the last one excepted. */
async function launched(profile: string, options: Options): Promise<BrowserContext> {
  for (let launch = 1; launch < LAUNCHES; launch++) {
    try {
      return await chromium.launchPersistentContext(profile, options);
    } catch (error) {
      console.error(`launch ${launch} of the browser failed: ${String(error).split("\n")[0]}`);
    }
  }
  return chromium.launchPersistentContext(profile, options);
}

/** Runs `work` in a browser with a fresh profile. Errors on the page's console fail it. */
export async function inBrowser(
  work: (context: BrowserContext, page: Page) => Promise<void>, { gpu = true, ...options }: Options = {},
): Promise<void> {
  const profile = await mkdtemp(join(tmpdir(), "zimage-web-"));
  const faults: string[] = [];
  const args = gpu ? [...FLAGS, ...GPU] : [...FLAGS, "--disable-gpu"];
  const context = await launched(profile, { executablePath: executable(), args, ...options });
  try {
    context.on("weberror", (error) => faults.push(String(error.error())));
    await work(context, context.pages()[0] ?? (await context.newPage()));
  } finally {
    await context.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
  if (faults.length > 0) throw new Error(`errors on the page: ${faults.join("; ")}`);
}

/** Serves the built folder until `work` is done. */
export async function withServer(work: (server: TestServer) => Promise<void>): Promise<void> {
  if (!existsSync(join(DIST, "index.html"))) throw new Error("web/dist is not there: run web/build first");
  const server = await TestServer.serve(DIST);
  try {
    await work(server);
  } finally {
    await server.stop();
  }
}

declare global {
  /** The module, on the page that `embed` opens. */
  var zimage: typeof import("../dist/zimage.js");
}

/** Opens a page that has the module and nothing else. */
export async function embed(page: Page, server: TestServer): Promise<void> {
  const script = 'import * as zimage from "./zimage.js"; Object.assign(window, { zimage });';
  server.replaced.set("/embedded.html", Buffer.from(`<!doctype html><script type="module">${script}</script>`));
  await page.goto(`${server.origin}/embedded.html`);
}

/** Waits until the page is in one of these states. */
export async function until(page: Page, ...states: string[]): Promise<void> {
  const selector = states.map((state) => `body[data-state="${state}"]`).join(",");
  await page.waitForSelector(selector, { timeout: PATIENCE });
}

/** Fills the form and presses Draw. */
export async function ask(page: Page, request: Record<string, string | number>): Promise<void> {
  await page.uncheck("#vary");
  for (const [name, value] of Object.entries(request)) await page.fill(`#${name}`, String(value));
  await page.click("#draw");
}

export async function press(page: Page, button: string): Promise<void> {
  await page.getByRole("button", { name: button, exact: true }).click();
}

/** Downloads the shown picture as the user would. */
export async function download(page: Page): Promise<{ name: string; bytes: Buffer }> {
  const event = page.waitForEvent("download");
  await page.click("#download");
  const file = await event;
  return { name: file.suggestedFilename(), bytes: await readFile(await file.path()) };
}

/** The text of the page's notice. */
export async function notice(page: Page): Promise<string> {
  const element = page.locator("#notice:not([hidden])");
  await element.waitFor({ timeout: PATIENCE });
  return element.innerText();
}

/**
 * The command line's picture on the `cpu` backend. cargo builds the binary unless `ZIMAGE` names
 * one.
 */
export async function reference(args: string[]): Promise<Buffer> {
  const folder = await mkdtemp(join(tmpdir(), "zimage-reference-"));
  const file = join(folder, "picture.png");
  const command = ["generate", "--backend", "cpu", "-o", file, ...args];
  const zimage = process.env["ZIMAGE"];
  const run = promisify(execFile);
  if (zimage) await run(zimage, command);
  else await run("cargo", ["run", "--quiet", "--release", "--locked", "--", ...command], { cwd: join(web, "..") });
  const bytes = await readFile(file);
  await rm(folder, { recursive: true });
  return bytes;
}

/** PSNR of two pictures of one size in dB, over all values of all pixels. */
export async function psnr(page: Page, one: Buffer, other: Buffer): Promise<number> {
  return page.evaluate(async (files) => {
    const decoded = await Promise.all(files.map(async (file) => {
      const bytes = Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0));
      const options: ImageBitmapOptions = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
      const bitmap = await createImageBitmap(new Blob([bytes]), options);
      const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d")!;
      context.drawImage(bitmap, 0, 0);
      return { size: `${bitmap.width}×${bitmap.height}`, pixels: context.getImageData(0, 0, bitmap.width, bitmap.height).data };
    }));
    const [a, b] = [decoded[0]!, decoded[1]!];
    if (a.size !== b.size) throw new Error(`${a.size} is not ${b.size}`);
    let squares = 0;
    for (let i = 0; i < a.pixels.length; i++) if (i % 4 < 3) squares += (a.pixels[i]! - b.pixels[i]!) ** 2;
    return 10 * Math.log10(255 ** 2 / (squares / ((a.pixels.length / 4) * 3)));
  }, [one.toString("base64"), other.toString("base64")]);
}

/** The number of values that differ between two pictures; all of them if the sizes differ. */
export function differing(one: number[], other: number[]): number {
  return one.length === other.length ? one.filter((value, i) => value !== other[i]).length : Math.max(one.length, other.length);
}

/** The text chunks of a PNG by keyword. */
export function pngTexts(png: Buffer): Map<string, string> {
  const texts = new Map<string, string>();
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    const kind = png.toString("latin1", at + 4, at + 8);
    const data = png.subarray(at + 8, at + 8 + length);
    const end = data.indexOf(0);
    if (kind === "tEXt") texts.set(data.toString("latin1", 0, end), data.toString("latin1", end + 1));
    // An uncompressed iTXt: keyword, two flags, language, translated keyword, text.
    if (kind === "iTXt") texts.set(data.toString("latin1", 0, end), data.toString("utf8", data.indexOf(0, data.indexOf(0, end + 3) + 1) + 1));
    at += length + 12;
  }
  return texts;
}
