/** Which bytes of a file are here: sorted, disjoint ranges `[start, end)` that do not touch. */

export type Range = [start: number, end: number];

export class Extents {
  constructor(private ranges: Range[] = []) {}

  /** Adds a range, which may overlap what is there. */
  add(start: number, end: number): void {
    if (start >= end) return;
    const apart = this.ranges.filter(([from, to]) => to < start || from > end);
    const joined = this.ranges.filter(([from, to]) => to >= start && from <= end);
    const from = Math.min(start, ...joined.map(([from]) => from));
    const to = Math.max(end, ...joined.map(([, to]) => to));
    this.ranges = [...apart, [from, to] satisfies Range].sort(([a], [b]) => a - b);
  }

  /** What of `[start, end)` is not here, in order. */
  missing(start: number, end: number): Range[] {
    const gaps: Range[] = [];
    let at = start;
    for (const [from, to] of this.ranges) {
      if (to <= at || from >= end) continue;
      if (from > at) gaps.push([at, from]);
      at = to;
    }
    if (at < end) gaps.push([at, end]);
    return gaps;
  }

  toJSON(): Range[] {
    return this.ranges;
  }
}
