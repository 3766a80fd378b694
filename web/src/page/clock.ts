/** Estimates a run's remaining time from its steps and from the last decode of the same size. */

import type { Picture, Request } from "../zimage.js";

export class Clock {
  private started = 0;
  private at = 0;
  private left: number | undefined;
  /** Milliseconds from the last step to the picture, by number of pixels. */
  private readonly decoding = new Map<number, number>();

  begin(): void {
    this.started = 0;
    this.left = undefined;
  }

  step(done: number, of: number, pixels: number): void {
    this.at = performance.now();
    if (done === 0) this.started = this.at;
    else this.left = ((this.at - this.started) / done) * (of - done) + (this.decoding.get(pixels) ?? 0);
  }

  finish({ width, height }: Picture): void {
    this.decoding.set(width * height, performance.now() - this.at);
  }

  /** Milliseconds; `undefined` before the first step has ended. */
  remaining(): number | undefined {
    return this.left === undefined ? undefined : Math.max(0, this.left - (performance.now() - this.at));
  }
}

/** The pixels of a request whose size is known. */
export function area({ width = 0, height = 0 }: Request): number {
  return width * height;
}
