/** Downloads of one file from broken, slow or hostile servers, without a browser. */

import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

const dist = new URL("../dist/worker/files/", import.meta.url).href;
const { download, versionNow } = await import(`${dist}http.js`);
const { mostBytes } = await import(`${dist}bounds.js`);

// Timers of the code under test run 100 times faster. Timers of node's fetch have arguments and
// keep their time.
const wait = globalThis.setTimeout;
globalThis.setTimeout = ((act: () => void, ms = 0, ...rest: []) => wait(act, rest.length > 0 ? ms : ms / 100, ...rest)) as typeof setTimeout;

type Serve = (request: IncomingMessage, response: ServerResponse, number: number) => void;

interface Outcome {
  /** The outcome of the download. */
  end: string;
  requests: number;
  bytes: Buffer;
}

const [MIB, WEIGHTS, CONFIG] = [1 << 20, "m/vae/model.safetensors", "m/vae/config.json"];

async function served(serve: Serve, work: (url: string) => Promise<void>): Promise<number> {
  let requests = 0;
  const server = createServer((request, response) => serve(request, response, requests++));
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  try {
    await work(`http://127.0.0.1:${(server.address() as AddressInfo).port}/file`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
  return requests;
}

async function fetched(serve: Serve, name = WEIGHTS, range: [number, number] = [0, MIB]): Promise<Outcome> {
  const file = Buffer.alloc(2 * MIB);
  let [end, length] = ["", 0];
  const requests = await served(serve, async (url) => {
    const sink = {
      begin() {},
      write(at: number, bytes: Uint8Array) {
        file.set(bytes, at);
        length = at + bytes.length;
      },
    };
    const link = { name, signal: new AbortController().signal, heard() {} };
    end = await download(url, range, undefined, sink, link).then(String, (error: Error & { kind?: string }) => `${error.kind}: ${error.message}`);
  });
  return { end, requests, bytes: file.subarray(0, length) };
}

/** Sends bytes until the client disconnects. */
function endless(response: ServerResponse): void {
  const piece = Buffer.alloc(MIB >> 4, 65);
  const more = () => {
    while (!response.destroyed && response.write(piece));
    if (!response.destroyed) response.once("drain", more);
  };
  more();
}

const from = (request: IncomingMessage) => Number(/bytes=(\d+)/.exec(request.headers.range ?? "")![1]);
const ranged = (range: string, headers = {}) => ({ "content-range": `bytes ${range}`, ...headers });

const REFUSED: Record<string, [serve: Serve, sentence: RegExp, name?: string]> = {
  "weights without a length": [(_, response) => endless(response.writeHead(200)), /does not tell how long the file is/],
  "a configuration that never ends": [(_, response) => endless(response.writeHead(200)), /sends more than the 1\.0 MB that a file of its kind has/, CONFIG],
  "a configuration of 60 MB": [
    (_, response) => endless(response.writeHead(206, ranged("0-1048575/60000000"))), /says that it has 60\.0 MB, and a file of its kind has at most 1\.0 MB/, CONFIG,
  ],
  "a length that no file has": [
    (_, response) => response.writeHead(206, ranged("0-1048575/1180591620717411303424")).end(), /a file of its kind has at most/,
  ],
  "more bytes than the range has": [(_, response) => endless(response.writeHead(206, ranged("0-9/10"))), /sent more bytes than it announced/],
  "another place": [(_, response) => response.writeHead(206, ranged("5-9/10")).end("56789"), /sent other bytes than asked for/],
  "more than was asked for": [(_, response) => response.writeHead(206, ranged("0-2097151/2097152")).end(), /sent other bytes than asked for/],
  "a range past the end": [(_, response) => response.writeHead(206, ranged("0-0/0")).end(), /sent other bytes than asked for/],
  "a range of an unknown whole": [(_, response) => response.writeHead(206, ranged("0-9/*")).end(), /without telling which/],
  "compressed parts": [
    (_, response) => response.writeHead(206, ranged("0-99/100", { "content-encoding": "gzip" })).end(gzipSync(Buffer.alloc(MIB))), /compresses parts of the file/,
  ],
  "a compressed file that grows without end": [
    (_, response) => response.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync(Buffer.alloc(4 * MIB))), /sends more than the 1\.0 MB/, CONFIG,
  ],
  "a tag that changes": [
    (request, response, n) => {
      response.writeHead(206, ranged(`${from(request)}-9/10`, { etag: `"${n}"` })).write("x");
      wait(() => response.destroy(), 10);
    },
    /has changed meanwhile/,
  ],
  "a tag that vanishes": [
    (request, response, n) => {
      response.writeHead(206, ranged(`${from(request)}-9/10`, n === 0 ? { etag: '"a"' } : {})).write("x");
      wait(() => response.destroy(), 10);
    },
    /has changed meanwhile/,
  ],
  "a size that changes": [
    (request, response, n) => {
      response.writeHead(206, ranged(`${from(request)}-9/${10 + n}`)).write("x");
      wait(() => response.destroy(), 10);
    },
    /has changed meanwhile/,
  ],
};

for (const [name, [serve, sentence, file = WEIGHTS]] of Object.entries(REFUSED)) test(`${name}: refused with a sentence`, async () => {
  const { end, requests, bytes } = await fetched(serve, file);
  assert.match(end, sentence);
  assert.match(end, new RegExp(`^files: ${file}: `));
  assert.ok(requests <= 2 && bytes.length <= MIB, `${requests} requests, ${bytes.length} bytes`);
});

const LOST: Record<string, Serve> = {
  "a byte a request": (request, response) => {
    response.writeHead(206, ranged(`${from(request)}-999999/1000000`)).write("x");
    wait(() => response.destroy(), 5);
  },
  "ranges of one byte": (request, response) => response.writeHead(206, ranged(`${from(request)}-${from(request)}/1000000`)).end("x"),
  "a byte now and then": (request, response) => {
    response.writeHead(206, ranged(`${from(request)}-999999/1000000`));
    const drops = setInterval(() => response.write("x"), 20);
    response.on("close", () => clearInterval(drops));
  },
  "silence": () => {},
  "empty answers": (_, response) => response.writeHead(206, ranged("0-999999/1000000")).end(),
  "a whole file that always breaks at the same place": (_, response) => {
    response.writeHead(200, { "content-length": 1_000_000 }).write(Buffer.alloc(900_000));
    wait(() => response.destroy(), 20);
  },
  "a redirection to itself": (_, response) => response.writeHead(302, { location: "/file" }).end(),
  "a server that is busy": (_, response) => response.writeHead(503).end(),
};

for (const [name, serve] of Object.entries(LOST)) test(`${name}: fails after some retries`, { timeout: 30_000 }, async () => {
  const { end } = await fetched(serve);
  assert.match(end, /^files: .*: the connection to 127\.0\.0\.1:\d+ was lost/);
});

const FILE = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7) % 251));

test("a download with progress survives repeated breaks", async () => {
  const { end, requests, bytes } = await fetched((request, response) => {
    const start = from(request);
    response.writeHead(206, ranged(`${start}-${FILE.length - 1}/${FILE.length}`, { "content-length": FILE.length - start }));
    response.write(FILE.subarray(start, start + 70_000), () => wait(() => response.destroy(), 20));
  });
  assert.equal(end, "true");
  assert.equal(requests, 5);
  assert.ok(bytes.equals(FILE));
});

test("a short answer is followed by another request", async () => {
  const { end, requests, bytes } = await fetched((request, response) => {
    const [start, past] = [from(request), Math.min(from(request) + 100_000, FILE.length)];
    response.writeHead(206, ranged(`${start}-${past - 1}/${FILE.length}`)).end(FILE.subarray(start, past));
  });
  assert.deepEqual([end, requests], ["true", 3]);
  assert.ok(bytes.equals(FILE));
});

test("a compressed configuration without length is read whole", async () => {
  const text = JSON.stringify({ words: Array.from({ length: 2000 }, (_, i) => i) });
  const { end, bytes } = await fetched((_, response) => response.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync(text)), CONFIG);
  assert.equal(end, "true");
  assert.equal(String(bytes), text);
});

test("an unanswered version check times out", { timeout: 10_000 }, async () => {
  await served(() => {}, async (url) => assert.equal(await versionNow(url, new AbortController().signal), undefined));
});

test("published files are within the size bounds", () => {
  for (const [path, bytes] of [
    ["Z-Image-Turbo/transformer/diffusion_pytorch_model-00001-of-00003.safetensors", 9_973_693_184],
    ["Z-Image/transformer/diffusion_pytorch_model.safetensors", 24_600_000_000],
    ["Z-Image-Turbo/transformer/diffusion_pytorch_model.safetensors.index.json", 60_000],
    ["Z-Image-Turbo/tokenizer/tokenizer.json", 11_422_654], ["Z-Image-Turbo/tokenizer/vocab.json", 2_776_833],
    ["Z-Image-Turbo/tokenizer/merges.txt", 1_671_853], ["Z-Image-Turbo/tokenizer/chat_template.jinja", 4_168],
    ["Z-Image-Turbo/tokenizer/tokenizer_config.json", 9_732], ["Z-Image-Turbo/model_index.json", 399],
    ["z_image_turbo_bf16.safetensors", 12_300_000_000], ["z-image-turbo-Q8_0.GGUF", 6_600_000_000], ["z_image.sft", 12_300_000_000],
    ["tokenizer.json", 11_422_654], ["2/tokenizer.json", 11_422_654], ["vocab.json", 2_776_833], ["merges.txt", 1_671_853],
  ] as const) assert.ok(mostBytes(path) >= 2 * bytes, path);
});
