/** Addresses of models, and picked files; these tests need no browser. */

import assert from "node:assert/strict";
import { test } from "node:test";

const dist = new URL("../dist/worker/files/", import.meta.url).href;
const { modelFolder, modelName, modelPlaces } = await import(`${dist}addresses.js`);
const { PickedFiles } = await import(`${dist}picked.js`);

test("every form of an address gives the model's folder", () => {
  const hub = "https://huggingface.co/Tongyi-MAI/Z-Image-Turbo/resolve/main/";
  for (const [address, folder, name] of [
    ["https://example.org/models/emoji", "https://example.org/models/emoji/", "emoji"],
    ["https://example.org/models/emoji/model_index.json", "https://example.org/models/emoji/", "emoji"],
    ["https://example.org/my%20model/?key=1#x", "https://example.org/my%20model/?key=1", "my model"],
    ["https://example.org/%E0%A4%A", "https://example.org/%E0%A4%A/", "%E0%A4%A"],
    ["https://example.org/%E2%80%AEgnp", "https://example.org/%E2%80%AEgnp/", "\ufffdgnp"],
    ["https://example.org", "https://example.org/", "example.org"],
    ["https://huggingface.co/Tongyi-MAI/Z-Image-Turbo", hub, "Z-Image-Turbo"],
    ["https://huggingface.co/Tongyi-MAI/Z-Image-Turbo/", hub, "Z-Image-Turbo"],
    ["https://huggingface.co/Tongyi-MAI/Z-Image-Turbo/tree/main", hub, "Z-Image-Turbo"],
    ["https://huggingface.co/Tongyi-MAI/Z-Image-Turbo/blob/main/model_index.json", hub, "Z-Image-Turbo"],
    ["https://huggingface.co/a/b/tree/v1/emoji", "https://huggingface.co/a/b/resolve/v1/emoji/", "b"],
  ]) {
    assert.equal(modelFolder(address).href, folder, address);
    assert.equal(modelName(modelFolder(address!)), name, address);
  }
});

test("unusable addresses are refused with a sentence", () => {
  for (const address of ["data:,x", "javascript:alert(1)", "file:///etc/", "blob:https://example.org/1", "ftp://example.org/"]) {
    assert.throws(() => modelFolder(address), { name: "ZImageError", kind: "request", message: /expected https:\/\/… or http:\/\/…/ }, address);
  }
  assert.throws(() => modelFolder("https://user:secret@example.org/"), { name: "ZImageError", kind: "request", message: /no user name/ });
});

test("addresses are sorted into a folder and single files", () => {
  const places = (...addresses: string[]): [string | undefined, [string, string][]] => {
    const { folder, singles } = modelPlaces(addresses) as { folder: URL | undefined; singles: Map<string, URL> };
    return [folder?.href, [...singles].map(([path, { href }]) => [path, href])];
  };
  const hub = "https://huggingface.co";
  assert.deepEqual(places(`${hub}/a/b`, `${hub}/c/d/blob/main/sub/Z%20Q4_K.gguf?download=true`), [
    `${hub}/a/b/resolve/main/`,
    [["Z Q4_K.gguf", `${hub}/c/d/resolve/main/sub/Z%20Q4_K.gguf?download=true`]],
  ]);
  assert.deepEqual(places("https://a.org/x/model.safetensors", "https://a.org/y/model.safetensors#1", "https://a.org/tokenizer.json"), [
    undefined,
    [
      ["model.safetensors", "https://a.org/x/model.safetensors"],
      ["2/model.safetensors", "https://a.org/y/model.safetensors"],
      ["tokenizer.json", "https://a.org/tokenizer.json"],
    ],
  ]);
  assert.deepEqual(places("https://a.org/m/model_index.json"), ["https://a.org/m/", []]);
  assert.deepEqual(places("https://a.org/x%2F..%2Fy.gguf"), [undefined, [["y.gguf", "https://a.org/x%2F..%2Fy.gguf"]]]);
  const refused = { name: "ZImageError", kind: "request" };
  assert.throws(() => places("https://a.org/m/", "https://a.org/n/"), { ...refused, message: /^https:\/\/a\.org\/n\/ is the address of a second folder; / });
  assert.throws(() => places("file:///a.gguf"), { ...refused, message: /expected https:/ });
});

test("a picked file is read by ranges and named alone", async () => {
  const file = new File([new Uint8Array([0, 1, 2, 3, 4, 5])], "a.gguf");
  const files = new PickedFiles({ name: "", files: new Map([["a.gguf", file]]), singles: ["a.gguf"] });
  assert.deepEqual([await files.size("a.gguf"), await files.size("b.gguf")], [6, undefined]);
  assert.deepEqual(await files.read("a.gguf", 2, 4), new Uint8Array([2, 3]));
  await assert.rejects(files.read("a.gguf", 4, 9), { message: "a.gguf: the file cannot be read, or has changed since it was picked; pick it again" });
  await assert.rejects(files.read("b.gguf", 0, 1), { message: "b.gguf: there is no such file" });
});
