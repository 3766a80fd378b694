/** How the engine asks for a model's files, wherever they are. */

export interface ModelFiles {
  /** What to call the model. */
  readonly name: string;
  /** A file's bytes, or `undefined` when there is no such file. */
  size(path: string): Promise<number | undefined>;
  /** The bytes from `start` up to `end`. Rejects with a sentence. */
  read(path: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>>;
  /** The names in a folder, where they can be known. */
  list?(folder: string): Promise<string[]>;
}
