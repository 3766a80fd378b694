/** What was fetched of one file where the browser keeps nothing: its latest pieces, in memory. */

import { Extents, type Range } from "./extents.js";
import type { Identity } from "./http.js";
import type { Kept } from "./store.js";

/** What is held of a file between two reads, in bytes. A file no larger is held whole. */
export const HELD = 64 << 20;

export class HeldFile implements Kept {
  version: Identity | "missing" | undefined;
  private pieces: { at: number; bytes: Uint8Array<ArrayBuffer> }[] = [];

  begin(version: Identity | "missing"): void {
    this.version = version;
    this.pieces = [];
  }

  missing(start: number, end: number): Range[] {
    const extents = new Extents();
    for (const { at, bytes } of this.pieces) extents.add(at, at + bytes.length);
    return extents.missing(start, end);
  }

  write(at: number, bytes: Uint8Array<ArrayBuffer>): void {
    this.pieces.push({ at, bytes });
  }

  read(start: number, end: number): Uint8Array<ArrayBuffer> {
    const out = new Uint8Array(end - start);
    for (const { at, bytes } of this.pieces) {
      const [from, to] = [Math.max(start, at), Math.min(end, at + bytes.length)];
      if (from < to) out.set(bytes.subarray(from - at, to - at), from - start);
    }
    let total = this.pieces.reduce((sum, { bytes }) => sum + bytes.length, 0);
    while (total > HELD) total -= this.pieces.shift()?.bytes.length ?? total;
    return out;
  }

  settle(): void {}

  close(): void {
    this.pieces = [];
  }
}
