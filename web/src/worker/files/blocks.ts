/** Blocks of files. Files are cached and checked in whole blocks. */

/** Bytes of a block; the last block of a file may be shorter. */
export const BLOCK = 1 << 20;

/** The number of blocks in a file of `size` bytes. */
export function blocksOf(size: number): number {
  return Math.ceil(size / BLOCK);
}

/** The bytes of one block of a file of `size` bytes. */
export function lengthOf(index: number, size: number): number {
  return Math.min(BLOCK, size - index * BLOCK);
}

/** Assembles whole blocks from a file's bytes as they arrive. */
export class Assembler {
  private block = new Uint8Array(0);
  private index = -1;
  private filled = 0;

  /** @param size of the file in bytes. */
  constructor(private readonly size: number) {}

  /**
   * Takes the bytes at an offset of the file, and returns the blocks that they complete. A block
   * whose start did not arrive is dropped.
   */
  *add(at: number, bytes: Uint8Array<ArrayBuffer>): Generator<[index: number, block: Uint8Array<ArrayBuffer>]> {
    for (let taken = 0; taken < bytes.length; ) {
      const index = Math.floor((at + taken) / BLOCK);
      const offset = at + taken - index * BLOCK;
      if (offset === 0) {
        this.block = new Uint8Array(lengthOf(index, this.size));
        [this.index, this.filled] = [index, 0];
      }
      const part = bytes.subarray(taken, taken + BLOCK - offset);
      taken += part.length;
      if (index !== this.index || offset !== this.filled) continue;
      this.block.set(part, offset);
      this.filled += part.length;
      if (this.filled === this.block.length) yield [index, this.block];
    }
  }
}
