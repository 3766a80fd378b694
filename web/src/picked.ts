/** The files of a picked model folder by their paths inside the model. */

import type { Files } from "./messages.js";
import { ZImageError } from "./types.js";

const INDEX = "model_index.json";

/** The files of the folder with `model_index.json`: the picked folder or one inside it. */
export async function pickedFolder(picked: Iterable<File> | FileSystemDirectoryHandle): Promise<Files> {
  const found = new Map<string, File>();
  if (picked instanceof FileSystemDirectoryHandle) {
    await collect(picked, `${picked.name}/`, found);
  } else {
    for (const file of picked) found.set(file.webkitRelativePath || file.name, file);
  }
  const roots = [...found.keys()].filter((path) => path === INDEX || path.endsWith(`/${INDEX}`));
  const index = roots.sort((a, b) => a.length - b.length)[0];
  if (index === undefined) {
    const problem = "pick the one with model_index.json, transformer, text_encoder, tokenizer, vae and scheduler";
    throw new ZImageError(`this folder does not hold a diffusers model: ${problem}`, "files");
  }
  const root = index.slice(0, -INDEX.length);
  const files = new Map<string, File>();
  for (const [path, file] of found) if (path.startsWith(root)) files.set(path.slice(root.length), file);
  return { name: root.split("/").at(-2) ?? "model", files };
}

async function collect(folder: FileSystemDirectoryHandle, path: string, found: Map<string, File>): Promise<void> {
  for await (const entry of folder.values()) {
    if (entry.kind === "file") found.set(path + entry.name, await (entry as FileSystemFileHandle).getFile());
    else await collect(entry as FileSystemDirectoryHandle, `${path}${entry.name}/`, found);
  }
}
