/** A model that was picked from disk: a folder or single files. */

import { ZImageError } from "../../types.js";
import type { ModelFiles } from "../../wasm/zimage.js";

export class PickedFiles implements ModelFiles {
  readonly name: string;
  readonly singles: string[];
  private readonly files: Map<string, File>;

  constructor(picked: { name: string; files: Map<string, File>; singles: string[] }) {
    this.name = picked.name;
    this.files = picked.files;
    this.singles = picked.singles;
  }

  async size(path: string): Promise<number | undefined> {
    return this.files.get(path)?.size;
  }

  async read(path: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    const shown = this.name ? `${this.name}/${path}` : path;
    const file = this.files.get(path);
    if (!file) throw new ZImageError(`${shown}: there is no such file`, "files");
    try {
      const bytes = new Uint8Array(await file.slice(start, end).arrayBuffer());
      if (bytes.length === end - start) return bytes;
    } catch {
      // The browser refuses to read a file that has changed since it was picked.
    }
    const what = this.name ? "the folder" : "it";
    throw new ZImageError(`${shown}: the file cannot be read, or has changed since ${what} was picked; pick it again`, "files");
  }

  async list(folder: string): Promise<string[]> {
    const inside = [...this.files.keys()].filter((path) => path.startsWith(`${folder}/`));
    return inside.map((path) => path.slice(folder.length + 1)).filter((name) => !name.includes("/"));
  }
}
