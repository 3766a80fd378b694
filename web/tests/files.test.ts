/** The parts of loading that need no browser. */

import assert from "node:assert/strict";
import { test } from "node:test";

const dist = new URL("../dist/worker/files/", import.meta.url).href;
const { Extents } = await import(`${dist}extents.js`);
const { modelFolder, modelName } = await import(`${dist}remote.js`);

test("ranges join where they touch, and gaps are what is left", () => {
  const extents = new Extents();
  for (const [start, end] of [[10, 20], [30, 40], [5, 5], [20, 25], [38, 50]]) extents.add(start, end);
  assert.deepEqual(extents.toJSON(), [[10, 25], [30, 50]]);
  assert.deepEqual(extents.missing(0, 60), [[0, 10], [25, 30], [50, 60]]);
  assert.deepEqual(extents.missing(12, 24), []);
  assert.deepEqual(extents.missing(24, 31), [[25, 30]]);
  extents.add(0, 100);
  assert.deepEqual(extents.toJSON(), [[0, 100]]);
});

test("ranges added in any order cover what a set of bytes covers", () => {
  let state = 7;
  const random = (below: number) => (state = (state * 1103515245 + 12345) % 2 ** 31) % below;
  for (let round = 0; round < 200; round++) {
    const extents = new Extents();
    const bytes = new Set<number>();
    for (let i = 0; i < 12; i++) {
      const start = random(90);
      const end = start + random(12);
      extents.add(start, end);
      for (let at = start; at < end; at++) bytes.add(at);
    }
    const gaps = new Set<number>();
    for (const [start, end] of extents.missing(0, 110)) for (let at = start; at < end; at++) gaps.add(at);
    for (let at = 0; at < 110; at++) assert.notEqual(bytes.has(at), gaps.has(at), `byte ${at} of round ${round}`);
  }
});

test("a model's address is its folder, however it was copied", () => {
  const hub = "https://huggingface.co/Tongyi-MAI/Z-Image-Turbo/resolve/main/";
  for (const [address, folder, name] of [
    ["https://example.org/models/emoji", "https://example.org/models/emoji/", "emoji"],
    ["https://example.org/models/emoji/model_index.json", "https://example.org/models/emoji/", "emoji"],
    ["https://example.org/my%20model/?key=1#x", "https://example.org/my%20model/?key=1", "my model"],
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
