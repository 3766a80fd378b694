/** Models of single files, picked from disk and by their addresses. */

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import type { Page } from "playwright-core";
import { ask, differing, DIST, embed, inBrowser, notice, PATIENCE, press, until, withServer } from "./browser.js";
import type { TestServer } from "./server.js";

const EXPORTS = join(DIST, "../../tests/single_files");
/** GGUF and ComfyUI's spelling; the text encoder's file has the tokenizer. */
const FILES = ["gguf.gguf", "text_encoder_gguf.gguf", "ae.safetensors"];
/** Files of the diffusers folder whose numbers are those that `gguf` reads from these files. */
const EXPECTED = new Map([
  ["transformer/diffusion_pytorch_model-00002-of-00002.safetensors", "gguf.expected.safetensors"],
  ["text_encoder/model.safetensors", "text_encoder_gguf.expected.safetensors"],
]);
const REQUEST = { prompt: "a red fox", width: 64, height: 48, steps: 2, seed: 4 };

/** Serves the files under `/single/`, and the folder with the same numbers under `/folder/`. */
async function serve(server: TestServer): Promise<void> {
  for (const file of [...FILES, "all_in_one.safetensors"]) server.replaced.set(`/single/${file}`, await readFile(join(EXPORTS, file)));
  const model = join(EXPORTS, "model");
  for (const path of (await readdir(model, { recursive: true })).filter((path) => /\.(json|safetensors)$/.test(path))) {
    const expected = EXPECTED.get(path);
    server.replaced.set(`/folder/${path}`, await readFile(expected ? join(EXPORTS, expected) : join(model, path)));
  }
}

/** The pixels that the module draws with models at these addresses, on the processor. */
async function drawn(page: Page, models: string[][]): Promise<number[][]> {
  return page.evaluate(async ([models, request]) => {
    const pictures: number[][] = [];
    for (const model of models) {
      const loaded = await zimage.ZImage.load({ model, backend: "cpu" });
      pictures.push([...(await loaded.draw(request)).pixels.data]);
      loaded.dispose();
    }
    return pictures;
  }, [models, REQUEST] as const);
}

test("single files draw the folder's picture", () => withServer((server) => inBrowser(async (_, page) => {
  await serve(server);
  await embed(page, server);
  const [folder, files, mixed] = await drawn(page, [
    [`${server.origin}/folder/`],
    FILES.map((file) => `${server.origin}/single/${file}`),
    [`${server.origin}/single/gguf.gguf`, `${server.origin}/folder/`],
  ]);
  assert.equal(differing(files!, folder!), 0);
  assert.equal(differing(mixed!, folder!), 0);
  assert.ok(new Set(folder).size > 16, "it is a picture");
  const asked = server.weights.filter(({ method, path }) => method !== "HEAD" && path.startsWith("/single/"));
  assert.ok(asked.length > 0 && asked.every(({ status }) => status === 206), "by ranges");
})));

test("files picked from disk draw without network", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/#backend=cpu`);
  await until(page, "ready");
  server.reset();
  await page.setInputFiles("#model-singles", FILES.map((file) => join(EXPORTS, file)));
  await until(page, "loading");
  await until(page, "ready");
  assert.equal(await page.textContent("#model-name"), "gguf");
  await ask(page, REQUEST);
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  assert.deepEqual(server.weights, []);
  await page.setInputFiles("#model-singles", FILES.slice(0, 2).map((file) => join(EXPORTS, file)));
  const words = await notice(page);
  assert.match(words, /^gguf\.gguf: there is no VAE for this model\./);
  assert.match(words, /pick all of their files at once/);
  await page.setInputFiles("#model-singles", [join(EXPORTS, "../lora/full.safetensors")]);
  await until(page, "stopped");
  await page.waitForFunction(() => document.getElementById("notice")!.innerText.startsWith("full.safetensors: this is a LoRA"));
  await page.setInputFiles("#model-singles", [join(EXPORTS, "all_in_one.safetensors"), join(EXPORTS, "model/tokenizer/tokenizer.json")]);
  await until(page, "loading");
  await until(page, "ready");
  assert.equal(await page.textContent("#model-name"), "all_in_one");
})));

test("addresses of files are cached and go into the link", () => withServer((server) => inBrowser(async (_, page) => {
  await serve(server);
  await page.goto(`${server.origin}/#backend=cpu`);
  await until(page, "ready");
  await page.click("#model summary");
  await page.fill("#model-url", "gguf.gguf");
  await page.click("#model-load");
  assert.equal(await page.evaluate(() => document.querySelector<HTMLTextAreaElement>("#model-url")!.validationMessage), "gguf.gguf is no address; expected https://…");
  const addresses = FILES.map((file) => `${server.origin}/single/${file}`);
  await page.fill("#model-url", `${addresses.join("\n")}\n`);
  await page.click("#model-load");
  await until(page, "loading");
  await until(page, "ready");
  assert.equal(await page.textContent("#model-name"), "gguf");
  await ask(page, REQUEST);
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  assert.equal(new URLSearchParams(new URL(page.url()).hash.slice(1)).get("model"), addresses.join("\n"));
  server.asked.length = 0;
  await page.reload();
  await page.waitForSelector("#result:not([hidden])", { timeout: PATIENCE });
  assert.equal(await page.textContent("#model-name"), "gguf");
  assert.deepEqual(server.weights.filter(({ method }) => method !== "HEAD"), [], "the second visit fetches no weights");
})));

test("a missing file and another site's files are named", () => withServer((server) => withServer((elsewhere) => inBrowser(async (_, page) => {
  await serve(elsewhere);
  const addresses = FILES.map((file) => `${elsewhere.origin}/single/${file}`);
  elsewhere.replaced.set("/single/ae.safetensors", undefined);
  await page.goto(`${server.origin}/#${new URLSearchParams({ model: addresses.join("\n"), backend: "cpu" })}`);
  assert.ok((await notice(page)).includes(addresses.join(", ")));
  assert.deepEqual(elsewhere.asked, []);
  await press(page, "Load that model");
  await until(page, "loading");
  await until(page, "stopped");
  assert.match(await notice(page), /^ae\.safetensors: there is no such file at localhost:\d+\./);
}))));
