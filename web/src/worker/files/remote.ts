/**
 * A model at an address: its files fetched range by range as the engine asks for them, and kept, so that the next visit
 * only asks whether they are still the same.
 */

import { ZImageError } from "../../types.js";
import type { ModelFiles } from "../../wasm/zimage.js";
import { HELD, HeldFile } from "./held.js";
import { download, type Link, type Sink, same, versionNow } from "./http.js";
import { type Kept, Store } from "./store.js";

/** Ranges are widened to multiples of this many bytes: small tensors share a request. */
const CHUNK = 16 << 20;
/** The same where nothing is kept: what comes unasked may be gone before it is asked for, and then comes again. */
const HELD_CHUNK = 1 << 20;
/** How much of a file is fetched to learn its size: all of a small one, the header of a file of weights. */
const FIRST = 1 << 20;

type Heard = Link["heard"];

export class RemoteFiles implements ModelFiles {
  readonly name: string;
  /** What the user should know about keeping the files, a sentence each. */
  readonly warnings: string[] = [];
  /** Why files could not be fetched, when that is what ended a read: the first sentence. */
  failure: ZImageError | undefined;
  private readonly files = new Map<string, Promise<RemoteFile | undefined>>();

  private constructor(
    private readonly folder: URL,
    private readonly store: Store | undefined,
    private readonly signal: AbortSignal,
    private readonly heard: Heard,
  ) {
    this.name = modelName(folder);
    if (!store) this.warn("this browser keeps no files here, so that the next visit fetches the model again");
  }

  static async open(address: string, signal: AbortSignal, heard: Heard): Promise<RemoteFiles> {
    const folder = modelFolder(address);
    return new RemoteFiles(folder, await Store.open(folder.href), signal, heard);
  }

  async size(path: string): Promise<number | undefined> {
    return this.noted(async () => (await this.file(path))?.size);
  }

  async read(path: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    return this.noted(async () => {
      const file = await this.file(path);
      if (!file) throw new ZImageError(`${this.name}/${path}: there is no such file`, "files");
      return file.read(start, end);
    });
  }

  /** Lets other tabs have the files. */
  close(): void {
    for (const file of this.files.values()) file.then((file) => file?.close()).catch(() => {});
  }

  /** Closes the files and removes what is kept of them. */
  async forget(): Promise<void> {
    for (const file of this.files.values()) (await file.catch(() => undefined))?.close();
    this.files.clear();
    await this.store?.remove();
  }

  private file(path: string): Promise<RemoteFile | undefined> {
    let file = this.files.get(path);
    if (!file) {
      file = this.open(path);
      this.files.set(path, file);
    }
    return file;
  }

  private async open(path: string): Promise<RemoteFile | undefined> {
    const link = { name: `${this.name}/${path}`, signal: this.signal, heard: this.heard };
    const kept = (await this.store?.file(path)) ?? new HeldFile();
    const file = new RemoteFile(fileAddress(this.folder, path), kept, link, (sentence) => this.warn(sentence));
    try {
      if (await file.open()) return file;
    } catch (error) {
      file.close();
      throw error;
    }
    file.close();
    return undefined;
  }

  private warn(sentence: string): void {
    if (!this.warnings.includes(sentence)) this.warnings.push(sentence);
  }

  private async noted<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof ZImageError) this.failure ??= error;
      throw error;
    }
  }
}

class RemoteFile {
  size = 0;
  private turn: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly url: string,
    private kept: Kept,
    private readonly link: Link,
    private readonly warn: (sentence: string) => void,
  ) {}

  /** Learns whether there is such a file, and its size. */
  async open(): Promise<boolean> {
    if (this.kept.version) {
      // What cannot be asked counts as unchanged: a model that is all here works without the network.
      const now = (await versionNow(this.url, this.link.signal)) ?? this.kept.version;
      if (now === "missing" || this.kept.version === "missing" || !same(now, this.kept.version)) {
        if (now === "missing" && this.kept.version === "missing") return false;
        this.kept.begin("missing");
      }
    }
    if (!this.kept.version || this.kept.version === "missing") {
      if (!(await this.fetch([0, FIRST]))) this.kept.begin("missing");
    }
    const { version } = this.kept;
    if (!version || version === "missing") return false;
    this.size = version.size;
    return true;
  }

  /** The bytes from `start` up to `end`, one caller after the other. */
  read(start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = this.turn.then(() => this.readNow(start, end));
    this.turn = bytes.catch(() => {});
    return bytes;
  }

  close(): void {
    this.kept.close();
  }

  private async readNow(start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    for (;;) {
      const gap = this.kept.missing(start, end)[0];
      if (!gap) return this.kept.read(start, end);
      const [from, to] = gap;
      const chunk = this.kept instanceof HeldFile ? HELD_CHUNK : CHUNK;
      const wide = this.kept.missing(from, Math.min(Math.ceil(to / chunk) * chunk, this.size))[0] ?? gap;
      if (!(await this.fetch(wide))) {
        throw new ZImageError(`${this.link.name}: the file has gone from the server; load the model again`, "files");
      }
    }
  }

  /** Fetches a range into what is kept; when there is no room for it, into memory from now on. */
  private async fetch(range: [number, number]): Promise<boolean> {
    const known = this.kept.version === "missing" ? undefined : this.kept.version;
    let full = false;
    const sink: Sink = {
      begin: (version, ranges) => {
        if (this.kept.version !== version) this.kept.begin(version);
        if (!ranges && this.kept instanceof HeldFile && !(version.size <= HELD)) throw this.unreadable();
      },
      write: (at, bytes) => {
        try {
          this.kept.write(at, bytes);
        } catch {
          full = true;
          throw new ZImageError("no room", "files");
        }
      },
    };
    try {
      return await download(this.url, range, known, sink, this.link);
    } catch (error) {
      if (!full) throw error;
      this.warn("the browser has no room to keep this model, so that the next visit fetches it again");
      this.kept.begin("missing");
      this.kept.close();
      this.kept = new HeldFile();
      return this.fetch(range);
    } finally {
      this.kept.settle();
    }
  }

  private unreadable(): ZImageError {
    const problem = "the server sends only whole files, and the browser has no room to keep one of this size";
    return new ZImageError(`${this.link.name}: ${problem}; use a server that answers range requests`, "files");
  }
}

/** The folder at an address, which may be the page of a Hugging Face repository. */
export function modelFolder(address: string): URL {
  const url = new URL(address);
  const hub = /^\/([^/]+\/[^/]+)(?:\/(?:tree|resolve|blob)\/([^/]+))?(\/.*)?$/.exec(url.pathname);
  if (url.hostname === "huggingface.co" && hub) {
    url.pathname = `/${hub[1]}/resolve/${hub[2] ?? "main"}${hub[3] ?? "/"}`;
  }
  url.hash = "";
  url.pathname = url.pathname.replace(/(\/model_index\.json)?\/*$/, "/");
  return url;
}

/** What to call the model at an address: its folder, or its repository's name. */
export function modelName(folder: URL): string {
  const parts = folder.pathname.split("/").filter(Boolean).map(decodeURIComponent);
  const resolve = parts.indexOf("resolve");
  const name = folder.hostname === "huggingface.co" && resolve > 0 ? parts[resolve - 1] : parts.at(-1);
  return name ?? folder.hostname;
}

function fileAddress(folder: URL, path: string): string {
  const url = new URL(folder);
  url.pathname += path.split("/").map(encodeURIComponent).join("/");
  return url.href;
}
