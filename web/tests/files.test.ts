/** Addresses of models; these tests need no browser. */

import assert from "node:assert/strict";
import { test } from "node:test";

const dist = new URL("../dist/worker/files/", import.meta.url).href;
const { modelFolder, modelName } = await import(`${dist}remote.js`);

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
