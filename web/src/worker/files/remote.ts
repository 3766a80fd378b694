/**
 * A model at an address. Its files are fetched range by range as the engine reads them, and cached:
 * the next visit only checks that they are unchanged.
 */

import { ZImageError } from "../../types.js";
import type { ModelFiles } from "../../wasm/zimage.js";
import { fileAddress, modelName, modelPlaces, singleName } from "./addresses.js";
import { Assembler, BLOCK } from "./blocks.js";
import { HELD, HeldFile } from "./held.js";
import { download, type Identity, type Link, type Sink, same, versionNow } from "./http.js";
import { Store, type StoredFile, type Version } from "./store.js";

/** Ranges are widened to multiples of this many bytes, so that small tensors share a request. */
const CHUNK = 16 << 20;
/** Bytes of the first fetch, which gives the size: a whole small file, or the header of weights. */
const FIRST = BLOCK;
/** Attempts to fetch a block that is missing after a successful download. */
const TRIES = 3;

/** Hears of the bytes that come from the network, with a sentence on the cause of a wait. */
export type Heard = Link["heard"];

/** An address, and the folder of its cached files; no folder if the browser stores nothing. */
interface Place {
  url: URL;
  store: Store | undefined;
}

export class RemoteFiles implements ModelFiles {
  readonly name: string;
  readonly singles: string[];
  /** Warnings about caching the files, a sentence each. */
  readonly warnings: string[] = [];
  /** The first error of a read. */
  failure: ZImageError | undefined;
  private readonly files = new Map<string, Promise<RemoteFile | undefined>>();

  private constructor(
    private readonly folder: Place | undefined,
    private readonly places: ReadonlyMap<string, Place>,
    private signal: AbortSignal,
    private readonly heard: Heard,
  ) {
    this.name = folder ? modelName(folder.url) : "";
    this.singles = [...places.keys()];
    if ([folder, ...places.values()].some((place) => place && !place.store)) {
      this.warn("this browser keeps no files here, so that the next visit fetches the model again");
    }
  }

  static async open(addresses: readonly string[], signal: AbortSignal, heard: Heard): Promise<RemoteFiles> {
    const { folder, singles } = modelPlaces(addresses);
    const place = async (url: URL): Promise<Place> => ({ url, store: await Store.open(url.href) });
    const places = await Promise.all([...singles].map(async ([path, url]) => [path, await place(url)] as const));
    return new RemoteFiles(folder && (await place(folder)), new Map(places), signal, heard);
  }

  async size(path: string): Promise<number | undefined> {
    return this.noted(path, async () => (await this.file(path))?.size);
  }

  async read(path: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    return this.noted(path, async () => {
      const file = await this.file(path);
      if (!file) throw new ZImageError(`${this.shown(path)}: there is no such file`, "files");
      return file.read(start, end);
    });
  }

  /** Begins another job: its signal ends the reads, and earlier failures are forgotten. */
  begin(signal: AbortSignal): void {
    this.signal = signal;
    this.failure = undefined;
  }

  /** Bytes of the files asked for so far that reading all of them would fetch. */
  async missing(): Promise<number> {
    const files = await Promise.all(this.files.values());
    return files.reduce((sum, file) => sum + (file?.missing ?? 0), 0);
  }

  /** Releases the files for other tabs. */
  close(): void {
    for (const file of this.files.values()) file.then((file) => file?.close()).catch(() => {});
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
    const single = this.places.get(path);
    const from = single ?? this.folder;
    if (!from) return undefined;
    const current = () => this.signal;
    const link = { name: this.shown(path), heard: this.heard, get signal() { return current(); } };
    const stored = await from.store?.file(single ? singleName(single.url) : path);
    if (stored === "busy") this.warn("another tab has this model open, so that this one fetches files of its own and does not keep them");
    else if (from.store && !stored) this.warn(NO_ROOM);
    const place = stored === "busy" ? undefined : stored;
    const url = single?.url ?? fileAddress(from.url, path);
    const file = new RemoteFile(url.href, place, link, (sentence) => this.warn(sentence));
    try {
      if (await file.open()) return file;
    } catch (error) {
      file.close();
      throw error;
    }
    file.close();
    if (single) throw new ZImageError(`${link.name}: there is no such file at ${single.url.host}`, "files");
    return undefined;
  }

  /** The path of a file in messages. */
  private shown(path: string): string {
    return this.places.has(path) ? path : `${this.name}/${path}`;
  }

  private warn(sentence: string): void {
    if (!this.warnings.includes(sentence)) this.warnings.push(sentence);
  }

  /**
   * Records the first error. An error of the browser, which may lack memory, becomes a sentence.
   */
  private async noted<T>(path: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const problem = `the browser cannot read it (${error instanceof Error ? error.message : error})`;
      const help = "close other tabs and load the model again; what was fetched is kept";
      const sentence = error instanceof ZImageError ? error : new ZImageError(`${this.shown(path)}: ${problem}; ${help}`, "files");
      this.failure ??= sentence;
      throw sentence;
    }
  }
}

const NO_ROOM = "the browser has no room to keep this model, so that the next visit fetches it again";

export class RemoteFile {
  private version: Version | undefined;
  private turn: Promise<unknown> = Promise.resolve();
  private readonly held = new HeldFile();
  private full = false;

  constructor(
    private readonly url: string,
    private stored: StoredFile | undefined,
    private readonly link: Link,
    private readonly warn: (sentence: string) => void,
  ) {
    this.version = stored?.version;
  }

  /** Bytes. */
  get size(): number {
    return typeof this.version === "object" ? this.version.size : 0;
  }

  /** Bytes that are not on disk. */
  get missing(): number {
    let bytes = 0;
    for (let index = 0; index * BLOCK < this.size; index++) {
      if (!this.stored?.has(index)) bytes += Math.min(BLOCK, this.size - index * BLOCK);
    }
    return bytes;
  }

  /** Asks for the file's size. Returns false if the file does not exist. */
  async open(): Promise<boolean> {
    if (this.version) {
      // Without an answer the file counts as unchanged: a cached model works without the network.
      const now = (await versionNow(this.url, this.link.signal)) ?? this.version;
      if (now === "missing" && this.version === "missing") return false;
      if (now === "missing" || this.version === "missing" || !same(now, this.version)) this.begin("missing");
    }
    if (!this.version || this.version === "missing") {
      if (!(await this.fetch([0, FIRST]))) this.begin("missing");
    }
    return this.version !== "missing";
  }

  /** Reads the bytes from `start` up to `end`. Calls run one after the other. */
  read(start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = this.turn.then(() => this.readNow(start, end));
    this.turn = bytes.catch(() => {});
    return bytes;
  }

  close(): void {
    this.stored?.close();
    this.stored = undefined;
    this.held.clear();
  }

  private async readNow(start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(end - start);
    await this.stored?.check(Math.floor(start / BLOCK), Math.ceil(end / BLOCK));
    for (let at = start; at < end; ) {
      const index = Math.floor(at / BLOCK);
      const until = Math.min(end, (index + 1) * BLOCK);
      const part = await this.part(index, [at, until], end);
      bytes.set(part, at - start);
      at = until;
    }
    return bytes;
  }

  /**
   * Reads bytes of one block. A missing block is fetched with the following ones, at least to
   * `end`.
   */
  private async part(index: number, [from, until]: [number, number], end: number): Promise<Uint8Array<ArrayBuffer>> {
    const place = [index, from - index * BLOCK, until - index * BLOCK] as const;
    for (let tries = 0; tries < TRIES; tries++) {
      const part = this.stored?.read(...place) ?? this.held.read(...place);
      if (part) return part;
      if (!(await this.fetch(this.gap(index, end)))) {
        throw new ZImageError(`${this.link.name}: the file has gone from the server; load the model again`, "files");
      }
    }
    throw new ZImageError(`${this.link.name}: the browser loses what it stores of the file; free some of the disk`, "files");
  }

  /** The range to fetch for a missing block: up to the next cached block. */
  private gap(index: number, end: number): [number, number] {
    // Without a store, prefetched blocks may be evicted before they are read, and fetched again.
    const chunk = this.stored && !this.full ? CHUNK : BLOCK;
    const until = Math.min(Math.ceil(end / chunk) * chunk, this.size);
    let past = index + 1;
    while (past * BLOCK < until && !this.has(past)) past++;
    return [index * BLOCK, Math.min(past * BLOCK, this.size)];
  }

  private has(index: number): boolean {
    return (this.stored?.has(index) ?? false) || this.held.has(index);
  }

  /** Drops all blocks; later blocks belong to this version. */
  private begin(version: Version): void {
    this.version = version;
    this.held.clear();
    try {
      this.stored?.begin(version);
    } catch {
      this.stored?.close();
      this.stored = undefined;
      this.warn(NO_ROOM);
    }
  }

  /** Fetches a range of the file, or all of it if the server sends no ranges. */
  private async fetch(range: [number, number]): Promise<boolean> {
    const known = this.version === "missing" ? undefined : this.version;
    let [assembler, whole] = [undefined as Assembler | undefined, false];
    const sink: Sink = {
      begin: (version: Identity, ranges) => {
        if (this.version !== version) this.begin(version);
        assembler ??= new Assembler(version.size);
        whole = !ranges;
        if (whole && (this.full || !this.stored) && version.size > HELD) throw this.unreadable();
      },
      write: async (at, bytes) => {
        for (const [index, block] of assembler!.add(at, bytes)) if (!this.has(index)) await this.put(index, block, whole);
      },
    };
    try {
      return await download(this.url, range, known, sink, this.link);
    } finally {
      this.stored?.settle();
    }
  }

  /** Stores a block on disk or, without space, in memory. Blocks that are on disk stay there. */
  private async put(index: number, block: Uint8Array<ArrayBuffer>, whole: boolean): Promise<void> {
    if (this.stored && !this.full) {
      try {
        return await this.stored.write(index, block);
      } catch {
        this.full = true;
        this.warn(NO_ROOM);
      }
    }
    if (whole && !this.held.fits(block.length)) throw this.unreadable();
    this.held.write(index, block);
  }

  private unreadable(): ZImageError {
    const problem = "the server sends only whole files, and the browser has no room to keep one of this size";
    return new ZImageError(`${this.link.name}: ${problem}; use a server that answers range requests`, "files");
  }
}
