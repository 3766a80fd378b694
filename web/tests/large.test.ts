/** A model with a tensor larger than the bar of the wasm heap. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import type { PlanOptions } from "../dist/zimage.js";
import { differing, DIST, embed, HEAP, inBrowser, notice, press, until, withServer } from "./browser.js";
import type { Content, TestServer } from "./server.js";

/** Rows of the large embedding table for each row of the model's. */
const TIMES = 200;
const TABLE = "embed_tokens.weight";
/** Words in Qwen3's tokenizer. */
const WORDS = 151_643;
const [TOKENIZER, CONFIG, WEIGHTS] = ["tokenizer/tokenizer.json", "text_encoder/config.json", "text_encoder/model.safetensors"]
  .map((path) => `/models/emoji/${path}`) as [string, string, string];

interface Stored {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

const E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6];

/** The value of an E4M3 byte without a sign. */
function e4m3(code: number): number {
  const [exponent, mantissa] = [code >> 3, code & 7];
  return exponent === 0 ? mantissa / 512 : 2 ** (exponent - 7) * (1 + mantissa / 8);
}

/**
 * The matrix of these NVFP4 codes in BF16, which holds every value if the tensor's scale is a power
 * of two. Scales are in cuBLAS's layout: tiles of 128 rows × 4 blocks.
 */
function inBf16(codes: Buffer, scales: Buffer, tensor: number, columns: number): Buffer {
  const tiles = Math.ceil(columns / 64);
  const values = Buffer.alloc(4 * codes.length);
  const float = Buffer.alloc(4);
  for (let at = 0; at < 2 * codes.length; at++) {
    const [row, block] = [Math.floor(at / columns), Math.floor((at % columns) / 16)];
    const tile = Math.floor(row / 128) * tiles + Math.floor(block / 4);
    const scale = e4m3(scales[tile * 512 + (row % 32) * 16 + Math.floor((row % 128) / 32) * 4 + (block % 4)]!) * tensor;
    const code = at % 2 === 0 ? codes[at >> 1]! >> 4 : codes[at >> 1]! & 15;
    float.writeFloatLE((code & 8 ? -1 : 1) * E2M1[code & 7]! * scale);
    assert.equal(float.readUInt16LE(0), 0, "BF16 holds the value");
    float.copy(values, 2 * at, 2);
  }
  return values;
}

/**
 * A text encoder's file with its table in BF16, in which the embedding of token `i` is row
 * `i × TIMES`, so that a misplaced part of the table moves the model's own rows. The rows between
 * are generated on reading.
 */
class SpreadEmbeddings implements Content {
  readonly length: number;
  private readonly head: Buffer;
  private readonly table: Buffer;
  private readonly rest: Buffer;
  /** Bytes of a row. */
  private readonly row: number;

  constructor(file: Buffer) {
    const data = 8 + Number(file.readBigUInt64LE());
    const header = JSON.parse(file.toString("utf8", 8, data)) as Record<string, Partial<Stored>>;
    const bytes = (name: string) => {
      const { data_offsets: [start, end] } = header[name] as Stored;
      return file.subarray(data + start, data + end);
    };
    const [scales, scale] = [`${TABLE}_scale`, `${TABLE}_scale_2`];
    const { dtype, shape: [rows, half] } = header[TABLE] as { dtype: string; shape: [number, number] };
    assert.equal(dtype, "U8", "the table is in NVFP4");
    this.table = inBf16(bytes(TABLE), bytes(scales), bytes(scale).readFloatLE(), 2 * half);
    this.row = 4 * half;
    for (const name of [TABLE, scales, scale]) delete header[name];
    const others: Buffer[] = [];
    let end = this.spread;
    for (const [name, tensor] of Object.entries(header).filter(([, tensor]) => tensor.data_offsets)) {
      others.push(bytes(name));
      tensor.data_offsets = [end, (end += others.at(-1)!.length)];
    }
    this.rest = Buffer.concat(others);
    header[TABLE] = { dtype: "BF16", shape: [rows * TIMES, 2 * half], data_offsets: [0, this.spread] };
    const text = Buffer.from(JSON.stringify(header));
    this.head = Buffer.concat([Buffer.alloc(8), text]);
    this.head.writeBigUInt64LE(BigInt(text.length));
    this.length = this.head.length + this.spread + this.rest.length;
  }

  /** Bytes of the table. */
  get spread(): number {
    return this.table.length * TIMES;
  }

  subarray(start: number, end: number): Buffer {
    const bytes = Buffer.alloc(end - start);
    for (let at = 0; at < bytes.length; ) at += this.following(start + at).copy(bytes, at);
    return bytes;
  }

  /** Some of the bytes from an offset on. */
  private following(at: number): Buffer {
    if (at < this.head.length) return this.head.subarray(at);
    const place = at - this.head.length;
    if (place >= this.spread) return this.rest.subarray(place - this.spread);
    const row = Math.floor(place / this.row);
    const own = (row / TIMES) * this.row;
    // Filler rows hold numbers from 0.5 up to 2.
    const bytes = row % TIMES === 0 ? this.table.subarray(own, own + this.row) : Buffer.alloc(this.row, Buffer.of(row, 0x3f));
    return bytes.subarray(place % this.row);
  }
}

interface Tokenizer {
  added_tokens: { id: number; content: string }[];
  model: { vocab: Record<string, number>; merges: [string, string][] };
}

/**
 * The tokenizer with ids `TIMES` apart and Qwen3's number of words. The words between have only
 * bytes that English lacks.
 */
function spreadTokenizer(json: string): Buffer {
  const tokenizer = JSON.parse(json) as Tokenizer;
  const { added_tokens: added, model: { vocab, merges } } = tokenizer;
  // Added tokens get ids after the vocabulary's, whatever their own, unless the vocabulary has
  // them.
  for (const { id, content } of added) vocab[content] = id;
  for (const word of Object.keys(vocab)) vocab[word]! *= TIMES;
  for (const token of added) token.id *= TIMES;
  const foreign = Object.keys(vocab).filter((word) => /^[\u00a1-\u00ff]$/.test(word));
  let words = Object.keys(vocab).length;
  let id = 0;
  for (let starts = foreign; words < WORDS; starts = starts.flatMap((start) => foreign.map((end) => start + end))) {
    for (const start of starts) {
      for (const end of foreign) {
        if (words >= WORDS || start + end in vocab) continue;
        if (++id % TIMES === 0) id++;
        vocab[start + end] = id;
        merges.push([start, end]);
        words++;
      }
    }
  }
  return Buffer.from(JSON.stringify(tokenizer));
}

/** Serves the embedded model with the large table and tokenizer. Returns the table's file. */
async function spread(server: TestServer): Promise<SpreadEmbeddings> {
  const read = (path: string) => readFile(join(DIST, path));
  const weights = new SpreadEmbeddings(await read(WEIGHTS));
  const config = JSON.parse(String(await read(CONFIG))) as { vocab_size: number };
  server.replaced.set(WEIGHTS, weights);
  server.replaced.set(CONFIG, Buffer.from(JSON.stringify({ ...config, vocab_size: config.vocab_size * TIMES })));
  server.replaced.set(TOKENIZER, spreadTokenizer(String(await read(TOKENIZER))));
  return weights;
}

test("a tensor above the heap's bar uploads within it", (t) => withServer((server) => inBrowser(async (_, page) => {
  await embed(page, server);
  const drawn = () => page.evaluate(async (model) => {
    const start = performance.now();
    const loaded = await zimage.ZImage.load({ model, backend: "webgpu" });
    const seconds = (performance.now() - start) / 1000;
    const request = { prompt: "a red fox on a green background", width: 64, height: 64, steps: 1, seed: 7 };
    const { pixels } = await loaded.draw(request);
    const heap = loaded.heapBytes;
    loaded.dispose();
    return { pixels: Array.from(pixels.data), heap, seconds };
  }, `${server.origin}/models/emoji/`);
  const expected = await drawn();

  const weights = await spread(server);
  const before = server.sent;
  const large = await drawn();
  const sent = server.sent - before;
  assert.ok(weights.spread > HEAP && sent > weights.spread, `${sent} bytes were sent for a table of ${weights.spread}`);
  // Both models use the same rows and the same shaders.
  assert.equal(differing(large.pixels, expected.pixels), 0, "values that the model with its own table draws otherwise");

  const [mb, table, bar] = [large.heap, weights.spread, HEAP].map((bytes) => (bytes / 1e6).toFixed(0));
  t.diagnostic(`peak of the wasm heap on webgpu with a tensor of ${table} MB and a tokenizer of ${WORDS} words: ${mb} MB (bar: ${bar} MB), loaded in ${large.seconds.toFixed(1)} s`);
  assert.ok(large.heap > 0 && large.heap <= HEAP, `${large.heap} bytes`);
})));

test("a large model loads once the user agrees to its amounts", () => withServer((server) => inBrowser(async (_, page) => {
  await page.goto(`${server.origin}/#backend=webgpu`);
  await until(page, "ready");
  server.reset();
  const { length } = await spread(server);
  await page.click("#model summary");
  await page.fill("#model-url", `${server.origin}/models/emoji/`);
  await page.click("#model-load");
  const words = await notice(page);
  const amount = (pattern: RegExp) => Number(pattern.exec(words)?.[1]) * 1e6;
  const [all, fetched, memory] = [/has ([\d.]+) MB of weights/, /downloads ([\d.]+) MB/, /needs ([\d.]+) MB of GPU memory/].map(amount);
  assert.ok(all! > length && all! < length + 40e6, words);
  assert.ok(fetched! > 0.9 * length && fetched! < all!, words);
  assert.ok(memory! > all! && memory! < 3 * all!, words);
  assert.match(words, /All of it is on the GPU at once\..*\n.*The limits of this GPU allow it\./s);
  assert.ok(server.sent < 8e6, `${server.sent} bytes for a question`);
  await press(page, "Use the small emoji model");
  await until(page, "loading");
})));

test("a plan says what a GPU's limits forbid", () => withServer((server) => inBrowser(async (_, page) => {
  await embed(page, server);
  const plan = (options: PlanOptions) => page.evaluate((options) => zimage.ZImage.plan({ backend: "webgpu", ...options }), options);
  const small = await plan({});
  assert.deepEqual([small.offload, small.obstacles], ["none", []]);
  // The plan has fetched the headers: a block of 1 MiB of each file.
  const fetched = small.bytes - small.download;
  assert.ok(fetched >= 0 && fetched <= 3 * 2 ** 20, `${small.download} of ${small.bytes}`);
  const limited = await plan({ maxMemory: 1e6 });
  assert.match(limited.obstacles.join(), /^the smallest plan takes .* GB of device memory, and 0\.00 GB are free$/);
  const asked = page.evaluate(() => zimage.ZImage.plan({ width: 65 }));
  await assert.rejects(asked, /65/);
})));
