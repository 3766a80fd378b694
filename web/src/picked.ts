/** The files of a picked model by their paths: those of a model folder, or single files. */

import type { Files } from "./messages.js";
import { distinct } from "./paths.js";
import { ZImageError } from "./types.js";

const INDEX = "model_index.json";

/**
 * The files of the folder with `model_index.json`, the picked folder or one inside it; or the
 * picked single files.
 */
export async function pickedModel(picked: Iterable<File> | FileSystemDirectoryHandle): Promise<Files> {
  const found = new Map<string, File>();
  let singles = false;
  if (picked instanceof FileSystemDirectoryHandle) {
    await collect(picked, `${picked.name}/`, found);
  } else {
    const files = [...picked];
    singles = files.length > 0 && files.every(({ name, webkitRelativePath }) => !webkitRelativePath && name !== INDEX);
    for (const file of files) found.set(file.webkitRelativePath || distinct(file.name, found), file);
  }
  if (singles) return { name: "", files: found, singles: [...found.keys()] };
  const roots = [...found.keys()].filter((path) => path === INDEX || path.endsWith(`/${INDEX}`));
  const index = roots.sort((a, b) => a.length - b.length)[0];
  if (index === undefined) {
    const problem = "pick the one with model_index.json, transformer, text_encoder, tokenizer, vae and scheduler";
    throw new ZImageError(`this folder does not hold a diffusers model: ${problem}`, "files");
  }
  const root = index.slice(0, -INDEX.length);
  const files = new Map<string, File>();
  for (const [path, file] of found) if (path.startsWith(root)) files.set(path.slice(root.length), file);
  return { name: root.split("/").at(-2) ?? "model", files, singles: [] };
}

async function collect(folder: FileSystemDirectoryHandle, path: string, found: Map<string, File>): Promise<void> {
  for await (const entry of folder.values()) {
    if (entry.kind === "file") found.set(path + entry.name, await (entry as FileSystemFileHandle).getFile());
    else await collect(entry as FileSystemDirectoryHandle, `${path}${entry.name}/`, found);
  }
}
