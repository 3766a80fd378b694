/** A model in a folder that was picked from disk. */

import { ZImageError } from "../../types.js";
import type { ModelFiles } from "../../wasm/zimage.js";

export class PickedFiles implements ModelFiles {
  readonly name: string;
  private readonly files: Map<string, File>;

  constructor(picked: { name: string; files: Map<string, File> }) {
    this.name = picked.name;
    this.files = picked.files;
  }

  async size(path: string): Promise<number | undefined> {
    return this.files.get(path)?.size;
  }

  async read(path: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    const file = this.files.get(path);
    if (!file) throw new ZImageError(`${this.name}/${path}: there is no such file`, "files");
    try {
      const bytes = new Uint8Array(await file.slice(start, end).arrayBuffer());
      if (bytes.length === end - start) return bytes;
    } catch {
      // The browser refuses to read a file that has changed since it was picked.
    }
    const problem = "the file cannot be read, or has changed since the folder was picked; pick it again";
    throw new ZImageError(`${this.name}/${path}: ${problem}`, "files");
  }

  async list(folder: string): Promise<string[]> {
    const inside = [...this.files.keys()].filter((path) => path.startsWith(`${folder}/`));
    return inside.map((path) => path.slice(folder.length + 1)).filter((name) => !name.includes("/"));
  }
}
