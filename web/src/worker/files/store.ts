/**
 * What was fetched, kept in the browser's private file system: for each file of a model its bytes, at their places, and
 * a record of which version they are of and which ranges are there. Bytes are on disk before the record names them, so a
 * tab that is closed in between loses a piece and nothing else.
 */

import { Extents, type Range } from "./extents.js";
import type { Identity } from "./http.js";

const ROOT = "zimage";
/** How long another tab's hold on a file is waited for, in milliseconds. */
const PATIENCE = 2000;

/** What is kept of one file, on disk or in memory. */
export interface Kept {
  /** The version that the bytes are of; `missing` when the server had no such file; `undefined` when nothing is known. */
  readonly version: Identity | "missing" | undefined;
  /** Forgets all bytes; those that follow are of this version. */
  begin(version: Identity | "missing"): void;
  /** What of `[start, end)` is not here. */
  missing(start: number, end: number): Range[];
  /** Throws when there is no room. */
  write(at: number, bytes: Uint8Array<ArrayBuffer>): void;
  /** Bytes that are all here. */
  read(start: number, end: number): Uint8Array<ArrayBuffer>;
  /** What was written is worth keeping: called when a transfer ends, however it ends. */
  settle(): void;
  close(): void;
}

/** The folder in which one model's files are kept. */
export class Store {
  private constructor(
    private readonly parent: FileSystemDirectoryHandle,
    private readonly folder: FileSystemDirectoryHandle,
  ) {}

  /** The folder for the model at `url`; `undefined` where the browser keeps nothing, as some do in private windows. */
  static async open(url: string): Promise<Store | undefined> {
    try {
      const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(url));
      const name = Array.from(new Uint8Array(digest, 0, 16), (byte) => byte.toString(16).padStart(2, "0")).join("");
      const root = await navigator.storage.getDirectory();
      const parent = await root.getDirectoryHandle(ROOT, { create: true });
      return new Store(parent, await parent.getDirectoryHandle(name, { create: true }));
    } catch {
      return undefined;
    }
  }

  /** What is kept of the file at `path`; `undefined` while another tab holds it. */
  async file(path: string): Promise<Kept | undefined> {
    const name = encodeURIComponent(path);
    try {
      const bytes = await held(await this.folder.getFileHandle(name, { create: true }));
      try {
        return new StoredFile(bytes, await held(await this.folder.getFileHandle(`${name}.json`, { create: true })));
      } catch {
        bytes.close();
      }
    } catch {
      // Held by another tab, or the browser has no such handles.
    }
    return undefined;
  }

  /** Removes everything that is kept of the model; its files have to be closed. */
  async remove(): Promise<void> {
    await this.parent.removeEntry(this.folder.name, { recursive: true }).catch(() => {});
  }
}

async function held(file: FileSystemFileHandle): Promise<FileSystemSyncAccessHandle> {
  for (const until = Date.now() + PATIENCE; ; ) {
    try {
      return await file.createSyncAccessHandle();
    } catch (error) {
      if (Date.now() > until) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

/** What the record of a file says. */
interface Record {
  version: Identity | "missing";
  extents: Range[];
}

class StoredFile implements Kept {
  version: Identity | "missing" | undefined;
  private extents = new Extents();

  constructor(
    private readonly bytes: FileSystemSyncAccessHandle,
    private readonly record: FileSystemSyncAccessHandle,
  ) {
    const text = new Uint8Array(record.getSize());
    record.read(text, { at: 0 });
    try {
      const { version, extents } = JSON.parse(new TextDecoder().decode(text)) as Record;
      this.version = version;
      this.extents = new Extents(extents);
    } catch {
      // A new file, or a record that was cut off while it was written: nothing is here.
    }
  }

  begin(version: Identity | "missing"): void {
    this.version = version;
    this.extents = new Extents();
    this.bytes.truncate(0);
    this.settle();
  }

  missing(start: number, end: number): Range[] {
    return this.extents.missing(start, end);
  }

  write(at: number, bytes: Uint8Array<ArrayBuffer>): void {
    if (this.bytes.write(bytes, { at }) !== bytes.length) throw new Error("the disk is full");
    this.extents.add(at, at + bytes.length);
  }

  read(start: number, end: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(end - start);
    this.bytes.read(bytes, { at: start });
    return bytes;
  }

  settle(): void {
    try {
      this.bytes.flush();
      const text = new TextEncoder().encode(JSON.stringify({ version: this.version, extents: this.extents }));
      this.record.truncate(0);
      this.record.write(text, { at: 0 });
      this.record.flush();
    } catch {
      // No room for the record: this visit goes on, and the next one fetches the file again.
    }
  }

  close(): void {
    this.bytes.close();
    this.record.close();
  }
}
