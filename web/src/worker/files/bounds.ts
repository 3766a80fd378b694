/** The most bytes that a file of a model may have, by its kind: asked before any of it is fetched. */

const MIB = 1 << 20;

/** The first kind whose pattern fits a file's path; the figures leave room above the published files. */
const KINDS: [path: RegExp, most: number][] = [
  // Z-Image-Turbo's largest has 10 GB.
  [/\.safetensors$/, 2 ** 38],
  // A name and a file for each tensor: 60 kB.
  [/\.index\.json$/, 64 * MIB],
  // Qwen3's tokenizer.json has 11.4 MB.
  [/(^|\/)tokenizer\/[^/]+$/, 64 * MIB],
  // Configurations: 1 kB.
  [/(?:)/, MIB],
];

/** The most that is read of a file whose server does not tell its length, in bytes. */
export const UNTOLD = 64 * MIB;

/** The most bytes that a file of this path may have. */
export function mostBytes(path: string): number {
  return KINDS.find(([kind]) => kind.test(path))![1];
}
