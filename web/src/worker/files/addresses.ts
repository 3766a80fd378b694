/** Addresses of models: of folders, of single files, and of pages of the Hugging Face hub. */

import { distinct } from "../../paths.js";
import { ZImageError } from "../../types.js";

/** Single files: weights and the small files of a model, but not the index of a folder. */
const SINGLE = /\.(safetensors|sft|gguf|json|txt|jinja)$/i;
const INDEX = /(\/model_index\.json)?\/*$/;

/** The addresses of a model's files. */
export interface Places {
  folder: URL | undefined;
  /** Single files by their paths, which are their names wherever these differ. */
  singles: Map<string, URL>;
}

/** Sorts addresses into that of a folder and those of single files. */
export function modelPlaces(addresses: readonly string[]): Places {
  const places: Places = { folder: undefined, singles: new Map() };
  for (const address of addresses) {
    const url = located(address);
    if (SINGLE.test(url.pathname) && !url.pathname.endsWith("/model_index.json")) {
      places.singles.set(distinct(singleName(url), places.singles), url);
    } else if (places.folder) {
      const problem = "is the address of a second folder; expected one folder, and files that replace parts of it";
      throw new ZImageError(`${address} ${problem}`, "request");
    } else {
      places.folder = modelFolder(address);
    }
  }
  return places;
}

/** The model's folder for an address, which may be the page of a Hugging Face repository. */
export function modelFolder(address: string): URL {
  const url = located(address);
  url.pathname = url.pathname.replace(INDEX, "/");
  return url;
}

/** The address that files are fetched from, which differs for a page of the Hugging Face hub. */
function located(address: string): URL {
  const url = new URL(address);
  if (url.protocol !== "https:" && url.protocol !== "http:") {
    throw new ZImageError(`${url.protocol} begins no address of a model; expected https://… or http://…`, "request");
  }
  if (url.username || url.password) {
    throw new ZImageError("a model's address has no user name and no password in it; browsers do not send them", "request");
  }
  const hub = /^\/([^/]+\/[^/]+)(?:\/(?:tree|resolve|blob)\/([^/]+))?(\/.*)?$/.exec(url.pathname);
  if (url.hostname === "huggingface.co" && hub) {
    url.pathname = `/${hub[1]}/resolve/${hub[2] ?? "main"}${hub[3] ?? "/"}`;
  }
  url.hash = "";
  return url;
}

/** The name of the model at an address: its folder's or its repository's. */
export function modelName(folder: URL): string {
  const parts = folder.pathname.split("/").filter(Boolean).map(readable);
  const resolve = parts.indexOf("resolve");
  const name = folder.hostname === "huggingface.co" && resolve > 0 ? parts[resolve - 1] : parts.at(-1);
  return name ?? folder.hostname;
}

/** The name of a single file. */
export function singleName(file: URL): string {
  return readable(file.pathname).split("/").at(-1)!;
}

/** The address of a file in a folder. */
export function fileAddress(folder: URL, path: string): URL {
  const url = new URL(folder);
  url.pathname += path.split("/").map(encodeURIComponent).join("/");
  return url;
}

/** A readable part of an address: decoded if possible, without control characters. */
function readable(part: string): string {
  try {
    return decodeURIComponent(part).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\ufffd");
  } catch {
    return part;
  }
}
