/**
 * What was fetched, kept in the browser's private file system: for each file of a model its bytes, at their places, and
 * a record of which version they are of and of the SHA-256 of every block that is there. A block is on disk before the
 * record has its sum, and is read only where the sum fits, so that neither a closed tab nor a bad disk changes a weight.
 */

import { BLOCK, blocksOf, lengthOf } from "./blocks.js";
import type { Identity } from "./http.js";

const ROOT = "zimage";
/** How long another tab's hold on a file is waited for, in milliseconds. */
const PATIENCE = 2000;
/** Bytes of a SHA-256. */
const SUM = 32;
/** The most that a record says about its file's version, in bytes. */
const HEADER = 1 << 16;
/** Blocks that are checked at once. */
const AT_ONCE = 8;

/** A version of a file; `missing` when the server had no such file. */
export type Version = Identity | "missing";

/** The folder in which one model's files are kept. */
export class Store {
  private constructor(private readonly folder: FileSystemDirectoryHandle) {}

  /** The folder for the model at `url`; `undefined` where the browser keeps nothing, as some do in private windows. */
  static async open(url: string): Promise<Store | undefined> {
    try {
      const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(url));
      const name = Array.from(new Uint8Array(digest, 0, 16), (byte) => byte.toString(16).padStart(2, "0")).join("");
      const root = await navigator.storage.getDirectory();
      const parent = await root.getDirectoryHandle(ROOT, { create: true });
      return new Store(await parent.getDirectoryHandle(name, { create: true }));
    } catch {
      return undefined;
    }
  }

  /** What is kept of the file at `path`: `busy` while another tab has it open, `undefined` where it cannot be kept. */
  async file(path: string): Promise<StoredFile | "busy" | undefined> {
    // No encoded name has a space in it, so that no file is called as another one's record.
    const name = encodeURIComponent(path);
    try {
      const bytes = await opened(await this.folder.getFileHandle(name, { create: true }));
      try {
        return new StoredFile(bytes, await opened(await this.folder.getFileHandle(`${name} record`, { create: true })));
      } catch (error) {
        bytes.close();
        throw error;
      }
    } catch (error) {
      return (error as Partial<DOMException>).name === "NoModificationAllowedError" ? "busy" : undefined;
    }
  }
}

async function opened(file: FileSystemFileHandle): Promise<FileSystemSyncAccessHandle> {
  for (const until = Date.now() + PATIENCE; ; ) {
    try {
      return await file.createSyncAccessHandle();
    } catch (error) {
      if (Date.now() > until) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

/** What of an access handle is used. */
export type Handle = Pick<FileSystemSyncAccessHandle, "read" | "write" | "truncate" | "getSize" | "flush" | "close">;

/**
 * One file that is kept. Its record begins with the length of the version as JSON, in four bytes, and that JSON; then
 * follow the sums of all blocks in order, zeros for one that is not here.
 */
export class StoredFile {
  private known: Version | undefined;
  /** Where in the record the sums begin. */
  private first = 0;
  /** The sums of the blocks that are here. */
  private readonly sums = new Map<number, Uint8Array<ArrayBuffer>>();
  /** Blocks that are as they were when they came. */
  private readonly checked = new Set<number>();
  /** Blocks that the record lacks. */
  private readonly unrecorded = new Set<number>();

  constructor(
    private readonly bytes: Handle,
    private readonly record: Handle,
  ) {
    const length = new DataView(this.recorded(0, 4).buffer);
    if (length.byteLength < 4 || length.getUint32(0) > HEADER) return;
    this.first = 4 + length.getUint32(0);
    this.known = versionIn(this.recorded(4, this.first));
    if (this.known === undefined || this.known === "missing") return;
    const { size } = this.known;
    const sums = this.recorded(this.first, this.first + SUM * blocksOf(size));
    const here = Math.min(sums.length / SUM, blocksOf(Math.min(size, bytes.getSize())));
    for (let index = 0; index + 1 <= here; index++) {
      const sum = sums.slice(index * SUM, (index + 1) * SUM);
      if (sum.some((byte) => byte !== 0)) this.sums.set(index, sum);
    }
  }

  /** The version that the blocks are of; `undefined` when nothing is known. */
  get version(): Version | undefined {
    return this.known;
  }

  /** Forgets all blocks; those that follow are of this version. Throws when there is no room. */
  begin(version: Version): void {
    this.known = version;
    for (const blocks of [this.sums, this.checked, this.unrecorded]) blocks.clear();
    this.record.truncate(0);
    this.record.flush();
    this.bytes.truncate(0);
    const header = new TextEncoder().encode(JSON.stringify(version));
    const record = new Uint8Array(4 + header.length);
    new DataView(record.buffer).setUint32(0, header.length);
    record.set(header, 4);
    this.first = record.length;
    write(this.record, record, 0);
    this.record.flush();
  }

  has(index: number): boolean {
    return this.sums.has(index);
  }

  /** Throws when there is no room. */
  async write(index: number, block: Uint8Array<ArrayBuffer>): Promise<void> {
    write(this.bytes, block, index * BLOCK);
    this.sums.set(index, await sumOf(block));
    this.checked.add(index);
    this.unrecorded.add(index);
  }

  /** Holds blocks from `first` to before `past` against their sums, once each; one that has changed is here no longer. */
  async check(first: number, past: number): Promise<void> {
    const doubtful: number[] = [];
    for (let index = first; index < past; index++) if (this.has(index) && !this.checked.has(index)) doubtful.push(index);
    while (doubtful.length > 0) await Promise.all(doubtful.splice(0, AT_ONCE).map((index) => this.checkOne(index)));
  }

  /** The bytes of a block from `start` up to `end`, counted from its first; `undefined` when they cannot be read. */
  read(index: number, start: number, end: number): Uint8Array<ArrayBuffer> | undefined {
    if (!this.has(index)) return undefined;
    const bytes = new Uint8Array(end - start);
    if (readAll(this.bytes, bytes, index * BLOCK + start)) return bytes;
    this.forget(index);
    return undefined;
  }

  /** Records what was written: called when a transfer ends, however it ends. */
  settle(): void {
    if (this.unrecorded.size === 0) return;
    try {
      this.bytes.flush();
      for (const index of this.unrecorded) this.putSum(index, this.sums.get(index) ?? new Uint8Array(SUM));
      this.record.flush();
      this.unrecorded.clear();
    } catch {
      // No room for the record: this visit goes on, and the next one fetches these blocks again.
    }
  }

  close(): void {
    this.bytes.close();
    this.record.close();
  }

  private async checkOne(index: number): Promise<void> {
    const block = this.read(index, 0, lengthOf(index, (this.known as Identity).size));
    if (!block) return;
    const [sum, expected] = [await sumOf(block), this.sums.get(index)!];
    if (sum.every((byte, i) => byte === expected[i])) {
      this.checked.add(index);
    } else {
      this.forget(index);
      this.unrecorded.add(index);
    }
  }

  /** Has a block fetched again, without taking it from the record: what cannot be read now may be whole. */
  private forget(index: number): void {
    this.sums.delete(index);
    this.checked.delete(index);
    this.unrecorded.delete(index);
  }

  private putSum(index: number, sum: Uint8Array<ArrayBuffer>): void {
    write(this.record, sum, this.first + index * SUM);
  }

  /** The bytes of the record from `start` up to `end`, or as many of them as there are. */
  private recorded(start: number, end: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(Math.max(0, Math.min(end, this.record.getSize()) - start));
    return readAll(this.record, bytes, start) ? bytes : new Uint8Array(0);
  }
}

function versionIn(header: Uint8Array<ArrayBuffer>): Version | undefined {
  try {
    const version = JSON.parse(new TextDecoder().decode(header)) as Partial<Identity> | "missing" | null;
    if (version === "missing") return version;
    const { size, tag } = version ?? {};
    return Number.isSafeInteger(size) && size! >= 0 && typeof tag === "string" ? { size: size!, tag } : undefined;
  } catch {
    // A new file, or a record that was cut off while it was written: nothing is here.
    return undefined;
  }
}

async function sumOf(block: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", block));
}

function write(handle: Handle, bytes: Uint8Array<ArrayBuffer>, at: number): void {
  if (handle.write(bytes, { at }) !== bytes.length) throw new Error("the disk is full");
}

/** Whether all of `bytes` could be read. */
function readAll(handle: Handle, bytes: Uint8Array<ArrayBuffer>, at: number): boolean {
  try {
    return handle.read(bytes, { at }) === bytes.length;
  } catch {
    return false;
  }
}
