/** Files in blocks: what is kept of a file, and what is checked, is whole blocks of it. */

/** Bytes of every block but the last of a file. */
export const BLOCK = 1 << 20;

/** How many blocks a file of `size` bytes has. */
export function blocksOf(size: number): number {
  return Math.ceil(size / BLOCK);
}

/** The bytes of one block of a file of `size` bytes. */
export function lengthOf(index: number, size: number): number {
  return Math.min(BLOCK, size - index * BLOCK);
}

/** Whole blocks out of the bytes of a file as they arrive. */
export class Assembler {
  private block = new Uint8Array(0);
  private index = -1;
  private filled = 0;

  /** @param size of the file in bytes. */
  constructor(private readonly size: number) {}

  /**
   * Takes the bytes at a place in the file, and gives the blocks that they complete. A block that is begun anywhere but
   * at its start is left out.
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
