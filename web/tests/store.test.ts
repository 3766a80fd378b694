/** The cache of a file on a disk that loses and changes bytes, without a browser. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

const dist = new URL("../dist/worker/files/", import.meta.url).href;
const { StoredFile } = await import(`${dist}store.js`);
const { RemoteFile } = await import(`${dist}remote.js`);
const { Assembler, BLOCK } = await import(`${dist}blocks.js`);
const { HELD, HeldFile } = await import(`${dist}held.js`);

/** The part of `StoredFile` that the tests use. */
interface Stored {
  version: { size: number; tag: string } | "missing" | undefined;
  has(index: number): boolean;
  read(index: number, start: number, end: number): Uint8Array | undefined;
  check(first: number, past: number): Promise<void>;
}
interface Remote {
  read(start: number, end: number): Promise<Uint8Array>;
}

/** A file in memory. `wrote` is called on every change; `room` is its maximum size in bytes. */
class Disk {
  bytes = Buffer.alloc(0);
  room = Infinity;
  /** Makes the next reads return fewer bytes, or fail. */
  fault: "short" | "error" | undefined;

  constructor(private readonly wrote: (disk: Disk) => void = () => {}) {}

  getSize(): number {
    return this.bytes.length;
  }

  read(into: Uint8Array, { at = 0 } = {}): number {
    if (this.fault === "error") throw new DOMException("the disk fails", "NotReadableError");
    const part = this.bytes.subarray(at, at + into.length - (this.fault === "short" ? 1 : 0));
    into.set(part);
    return part.length;
  }

  write(from: Uint8Array, { at = 0 } = {}): number {
    const part = from.subarray(0, Math.max(0, this.room - at));
    if (at + part.length > this.bytes.length) this.truncate(at + part.length);
    this.bytes.set(part, at);
    this.wrote(this);
    return part.length;
  }

  truncate(length: number): void {
    this.bytes = Buffer.concat([this.bytes.subarray(0, length), Buffer.alloc(Math.max(0, length - this.bytes.length))]);
    this.wrote(this);
  }

  flush(): void {
    this.wrote(this);
  }

  close(): void {}
}

const SIZE = 3 * BLOCK + 1000;
const FILE = new Uint8Array(SIZE).map((_, i) => (i * 31 + (i >> 11)) % 251);
const VERSION = { size: SIZE, tag: '"1"' };
const block = (index: number) => FILE.slice(index * BLOCK, (index + 1) * BLOCK);

async function kept(blocks = [0, 1, 2, 3]): Promise<[Disk, Disk]> {
  const [bytes, record] = [new Disk(), new Disk()];
  const file = new StoredFile(bytes, record);
  file.begin(VERSION);
  for (const index of blocks) await file.write(index, block(index));
  file.settle();
  return [bytes, record];
}

/** The readable blocks of a stored file; each must have the expected bytes. */
async function trusted(file: Stored): Promise<number[]> {
  await file.check(0, 4);
  const here = [0, 1, 2, 3].filter((index) => file.has(index));
  for (const index of here) {
    const read = file.read(index, 0, block(index).length);
    assert.ok(read && Buffer.from(read).equals(block(index)), `block ${index} is handed out as it came`);
  }
  return here;
}

test("stored blocks survive a reopen", async () => {
  const file = new StoredFile(...(await kept([0, 2, 3])));
  assert.deepEqual(file.version, VERSION);
  assert.deepEqual(await trusted(file), [0, 2, 3]);
  assert.deepEqual(Buffer.from(file.read(3, 10, 1000)!), Buffer.from(FILE.slice(3 * BLOCK + 10)));
});

test("a changed byte invalidates only its block", async () => {
  const [bytes, record] = await kept();
  bytes.bytes[BLOCK + 5]! ^= 1;
  const file = new StoredFile(bytes, record);
  assert.deepEqual(await trusted(file), [0, 2, 3]);
  await file.write(1, block(1));
  file.settle();
  assert.deepEqual(await trusted(new StoredFile(bytes, record)), [0, 1, 2, 3]);
});

test("a truncated file is never padded with zeros", async () => {
  const [bytes, record] = await kept();
  bytes.bytes = bytes.bytes.subarray(0, 2 * BLOCK + 7);
  assert.deepEqual(await trusted(new StoredFile(bytes, record)), [0, 1]);
});

for (const fault of ["short", "error"] as const) test(`a failed read (${fault}) loses no stored block`, async () => {
  const [bytes, record] = await kept();
  const file = new StoredFile(bytes, record);
  await file.check(0, 4);
  bytes.fault = fault;
  assert.equal(file.read(1, 0, BLOCK), undefined, "no bytes rather than some");
  assert.equal(file.has(1), false, "it is fetched again");
  file.settle();
  bytes.fault = undefined;
  assert.deepEqual(await trusted(new StoredFile(bytes, record)), [0, 1, 2, 3]);
});

test("a corrupt record never yields wrong bytes", async () => {
  const [bytes, record] = await kept();
  const whole = Buffer.from(record.bytes);
  for (let at = 0; at < whole.length; at += 3) {
    record.bytes = Buffer.from(whole);
    record.bytes[at]! ^= 1 + (at % 255);
    const file = new StoredFile(bytes, record);
    if (JSON.stringify(file.version) === JSON.stringify(VERSION)) await trusted(file);
  }
  for (let length = 0; length < whole.length; length += 7) {
    record.bytes = whole.subarray(0, length);
    await trusted(new StoredFile(bytes, record));
  }
});

test("closing a tab at any moment is safe", async () => {
  const moments: [Buffer<ArrayBuffer>, Buffer<ArrayBuffer>][] = [];
  const disks: Disk[] = [];
  const note = () => moments.push(disks.map(({ bytes }) => Buffer.from(bytes)) as [Buffer<ArrayBuffer>, Buffer<ArrayBuffer>]);
  disks.push(new Disk(note), new Disk(note));
  const file = new StoredFile(disks[0]!, disks[1]!);
  file.begin({ size: SIZE, tag: '"0"' });
  await file.write(0, new Uint8Array(BLOCK).fill(9));
  file.settle();
  file.begin(VERSION);
  for (const index of [0, 1]) await file.write(index, block(index));
  file.settle();
  const left = async (bytes: Buffer<ArrayBuffer>, record: Buffer<ArrayBuffer>) => {
    const [stored, recorded] = [new Disk(), new Disk()];
    [stored.bytes, recorded.bytes] = [bytes, record];
    const file = new StoredFile(stored, recorded);
    if (typeof file.version === "object" && file.version.tag === VERSION.tag) await trusted(file);
  };
  assert.ok(moments.length > 10);
  // The system may have written the bytes of one moment and the record of any later one.
  for (const [i, [bytes]] of moments.entries()) for (const [, record] of moments.slice(i)) await left(Buffer.from(bytes), Buffer.from(record));
});

test("a block is on disk before its sum", async () => {
  const order: string[] = [];
  const [bytes, record] = [new Disk(() => order.push("bytes")), new Disk(() => order.push("record"))];
  const file = new StoredFile(bytes, record);
  file.begin(VERSION);
  order.length = 0;
  await file.write(0, block(0));
  file.settle();
  assert.equal(order.indexOf("record"), order.lastIndexOf("bytes") + 1, `${order}`);
});

test("arbitrary pieces assemble into whole blocks", () => {
  for (const piece of [999, 65_536, BLOCK, BLOCK + 1, SIZE]) {
    const assembler = new Assembler(SIZE);
    const blocks = new Map<number, Uint8Array>();
    for (let at = 0; at < SIZE; at += piece) {
      for (const [index, bytes] of assembler.add(at, FILE.slice(at, at + piece))) blocks.set(index, bytes);
    }
    assert.deepEqual([...blocks.keys()], [0, 1, 2, 3], `pieces of ${piece}`);
    for (const [index, bytes] of blocks) assert.ok(Buffer.from(bytes).equals(block(index)));
  }
  const late = new Assembler(SIZE);
  assert.deepEqual([...late.add(5, FILE.slice(5, BLOCK + 10))], [], "a block without its start is not taken");
  assert.deepEqual([...late.add(BLOCK + 10, FILE.slice(BLOCK + 10, 2 * BLOCK))].map(([index]) => index), [1]);
});

test("memory caches the latest blocks within bounds", () => {
  const held = new HeldFile();
  for (let index = 0; index < HELD / BLOCK + 10; index++) held.write(index, new Uint8Array(BLOCK));
  assert.equal(held.has(9), false);
  assert.equal(held.has(10), true);
  assert.equal(held.fits(1), false);
});

/** Reads a file from a server that counts its requests, as the engine does. */
async function reading(disks: [Disk, Disk] | undefined, work: (file: Remote, fetched: [number, number][], warnings: string[]) => Promise<void>): Promise<void> {
  const fetched: [number, number][] = [];
  const warnings: string[] = [];
  const server = createServer((request, response) => {
    const [start, end] = /bytes=(\d+)-(\d*)/.exec(request.headers.range!)!.slice(1).map(Number) as [number, number];
    const past = Math.min(end + 1, SIZE);
    response.setHeader("etag", VERSION.tag);
    if (request.method === "HEAD") return void response.writeHead(200, { "content-length": SIZE }).end();
    fetched.push([start, past]);
    response.writeHead(206, { "content-range": `bytes ${start}-${past - 1}/${SIZE}` }).end(FILE.slice(start, past));
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/m.safetensors`;
  const link = { name: "m/m.safetensors", signal: new AbortController().signal, heard() {} };
  const file = new RemoteFile(url, disks && new StoredFile(...disks), link, (sentence: string) => warnings.push(sentence));
  try {
    assert.equal(await file.open(), true);
    assert.equal(file.size, SIZE);
    await work(file, fetched, warnings);
  } finally {
    file.close();
    server.closeAllConnections();
    server.close();
  }
}

const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

test("only a block with a wrong sum is refetched", async () => {
  const disks = await kept();
  disks[0].bytes[2 * BLOCK + 1]! ^= 128;
  await reading(disks, async (file, fetched) => {
    assert.equal(sha(await file.read(10, SIZE)), sha(FILE.slice(10)));
    assert.deepEqual(fetched, [[2 * BLOCK, 3 * BLOCK]]);
  });
  await reading(disks, async (file, fetched) => {
    assert.equal(sha(await file.read(0, SIZE)), sha(FILE));
    assert.deepEqual(fetched, [], "and is whole from then on");
  });
});

test("a full disk moves new blocks to memory", async () => {
  const disks = await kept([0]);
  disks[0].room = BLOCK + 100;
  await reading(disks, async (file, fetched, warnings) => {
    assert.equal(sha(await file.read(0, SIZE)), sha(FILE));
    assert.equal(sha(await file.read(5, SIZE - 5)), sha(FILE.slice(5, SIZE - 5)));
    assert.ok(fetched.every(([start]) => start >= BLOCK), `${fetched}`);
    assert.match(warnings.join(), /no room to keep this model/);
  });
  disks[0].room = Infinity;
  assert.deepEqual(await trusted(new StoredFile(...disks)), [0]);
});

test("reads work without a disk", () => reading(undefined, async (file, fetched) => {
  assert.equal(sha(await file.read(BLOCK - 1, 2 * BLOCK + 1)), sha(FILE.slice(BLOCK - 1, 2 * BLOCK + 1)));
  assert.ok(fetched.every(([start, end]) => end - start <= 2 * BLOCK), `${fetched}`);
}));

test("an unreadable disk gives a sentence, loses nothing", async () => {
  const disks = await kept();
  await reading(disks, async (file) => {
    disks[0].fault = "short";
    await assert.rejects(file.read(0, SIZE), /the browser loses what it stores of the file/);
  });
  disks[0].fault = undefined;
  assert.deepEqual(await trusted(new StoredFile(...disks)), [0, 1, 2, 3]);
});
