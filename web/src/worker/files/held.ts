/** The latest blocks of one file in memory, for blocks that could not be stored on disk. */

/** Bytes in memory for one file. A file up to this size is cached whole. */
export const HELD = 64 << 20;

export class HeldFile {
  private readonly blocks = new Map<number, Uint8Array<ArrayBuffer>>();
  private total = 0;

  has(index: number): boolean {
    return this.blocks.has(index);
  }

  /** True if a block of `length` bytes fits without evicting another. */
  fits(length: number): boolean {
    return this.total + length <= HELD;
  }

  /** Adds a block, and evicts the oldest blocks when the limit is reached. */
  write(index: number, block: Uint8Array<ArrayBuffer>): void {
    for (const oldest of this.blocks.keys()) {
      if (this.fits(block.length)) break;
      this.drop(oldest);
    }
    this.drop(index);
    this.blocks.set(index, block);
    this.total += block.length;
  }

  /** The bytes of a block from `start` up to `end`, counted from its first. */
  read(index: number, start: number, end: number): Uint8Array<ArrayBuffer> | undefined {
    return this.blocks.get(index)?.subarray(start, end);
  }

  clear(): void {
    this.blocks.clear();
    this.total = 0;
  }

  private drop(index: number): void {
    this.total -= this.blocks.get(index)?.length ?? 0;
    this.blocks.delete(index);
  }
}
