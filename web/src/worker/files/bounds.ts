/** The maximum size of a model's file by kind, checked before the file is fetched. */

const MIB = 1 << 20;

/** Maximum sizes; the first pattern that matches a path applies. All exceed the published files. */
const KINDS: [path: RegExp, most: number][] = [
  // Z-Image-Turbo's largest has 10 GB.
  [/\.(safetensors|sft|gguf)$/i, 2 ** 38],
  // A name and a file for each tensor: 60 kB.
  [/\.index\.json$/, 64 * MIB],
  // Qwen3's tokenizer.json has 11.4 MB.
  [/(^|\/)(tokenizer\/[^/]+|tokenizer\.json|vocab\.json|merges\.txt)$/, 64 * MIB],
  // Configurations: 1 kB.
  [/(?:)/, MIB],
];

/** The maximum size of a file whose server does not send its length, in bytes. */
export const UNTOLD = 64 * MIB;

/** The maximum size in bytes of a file at this path. */
export function mostBytes(path: string): number {
  return KINDS.find(([kind]) => kind.test(path))![1];
}
