/**
 * The cache of fetched files in the browser's private file system (OPFS). Each file of a model has
 * its bytes at their offsets, and a record with the version and the SHA-256 of every stored block.
 * A block is on disk before the record has its sum, and is read only if the sum matches. So neither
 * a closed tab nor a bad disk changes a weight.
 */

import { BLOCK, blocksOf, lengthOf } from "./blocks.js";
import type { Identity } from "./http.js";

const ROOT = "zimage";
/** Milliseconds to wait until another tab closes a file. */
const PATIENCE = 2000;
/** Bytes of a SHA-256. */
const SUM = 32;
/** The maximum size of a record's header, in bytes. */
const HEADER = 1 << 16;
/** Blocks that are checked in parallel. */
const AT_ONCE = 8;

/** A version of a file; `missing` if the server had no such file. */
export type Version = Identity | "missing";

/** The folder with one model's cached files. */
export class Store {
  private constructor(private readonly folder: FileSystemDirectoryHandle) {}

  /** The folder for the model at `url`; `undefined` without storage, as in some private windows. */
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

  /**
   * The cached file at `path`: `busy` while another tab has it open, `undefined` if storage fails.
   */
  async file(path: string): Promise<StoredFile | "busy" | undefined> {
    // Encoded names have no space, so no file has the name of another file's record.
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

/** The methods of an access handle that are used. */
export type Handle = Pick<FileSystemSyncAccessHandle, "read" | "write" | "truncate" | "getSize" | "flush" | "close">;

/**
 * One cached file. Its record begins with the length of the version's JSON, in four bytes, and that
 * JSON. The sums of all blocks follow in order, zeros for a missing block.
 */
export class StoredFile {
  private known: Version | undefined;
  /** Offset of the sums in the record. */
  private first = 0;
  /** Sums of the stored blocks. */
  private readonly sums = new Map<number, Uint8Array<ArrayBuffer>>();
  /** Blocks whose sums were checked. */
  private readonly checked = new Set<number>();
  /** Blocks whose sums are not yet in the record. */
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

  /** The version of the blocks; `undefined` if unknown. */
  get version(): Version | undefined {
    return this.known;
  }

  /** Drops all blocks; later blocks belong to this version. Throws if the disk is full. */
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

  /** Writes a block. Throws if the disk is full. */
  async write(index: number, block: Uint8Array<ArrayBuffer>): Promise<void> {
    write(this.bytes, block, index * BLOCK);
    this.sums.set(index, await sumOf(block));
    this.checked.add(index);
    this.unrecorded.add(index);
  }

  /** Checks the sums of blocks `first..past`, once for each block. A changed block is dropped. */
  async check(first: number, past: number): Promise<void> {
    const doubtful: number[] = [];
    for (let index = first; index < past; index++) if (this.has(index) && !this.checked.has(index)) doubtful.push(index);
    while (doubtful.length > 0) await Promise.all(doubtful.splice(0, AT_ONCE).map((index) => this.checkOne(index)));
  }

  /**
   * The bytes of a block from `start` up to `end`, counted from the block's start; `undefined` if
   * unreadable.
   */
  read(index: number, start: number, end: number): Uint8Array<ArrayBuffer> | undefined {
    if (!this.has(index)) return undefined;
    const bytes = new Uint8Array(end - start);
    if (readAll(this.bytes, bytes, index * BLOCK + start)) return bytes;
    this.forget(index);
    return undefined;
  }

  /** Writes the sums of new blocks into the record. Called when a transfer ends or fails. */
  settle(): void {
    if (this.unrecorded.size === 0) return;
    try {
      this.bytes.flush();
      for (const index of this.unrecorded) this.putSum(index, this.sums.get(index) ?? new Uint8Array(SUM));
      this.record.flush();
      this.unrecorded.clear();
    } catch {
      // The disk is full. This visit continues, and the next one fetches these blocks again.
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

  /**
   * Drops a block so that it is fetched again. The record keeps its sum: a later read may succeed.
   */
  private forget(index: number): void {
    this.sums.delete(index);
    this.checked.delete(index);
    this.unrecorded.delete(index);
  }

  private putSum(index: number, sum: Uint8Array<ArrayBuffer>): void {
    write(this.record, sum, this.first + index * SUM);
  }

  /** The bytes of the record from `start` up to `end` or to its end. */
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
    // The file is new, or its record was truncated: no block is stored.
    return undefined;
  }
}

async function sumOf(block: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", block));
}

function write(handle: Handle, bytes: Uint8Array<ArrayBuffer>, at: number): void {
  if (handle.write(bytes, { at }) !== bytes.length) throw new Error("the disk is full");
}

/** Fills `bytes`. Returns false if the read fails or ends early. */
function readAll(handle: Handle, bytes: Uint8Array<ArrayBuffer>, at: number): boolean {
  try {
    return handle.read(bytes, { at }) === bytes.length;
  } catch {
    return false;
  }
}
