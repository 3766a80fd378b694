/**
 * Downloads one range of one file over HTTP. A lost connection resumes at the byte where it broke.
 * A server that ignores ranges is read from the file's start. A wrong answer is an error.
 */

import { ZImageError } from "../../types.js";
import { mostBytes, UNTOLD } from "./bounds.js";

/** The identity of a file's version. */
export interface Identity {
  /** Bytes. */
  size: number;
  /** The server's ETag or, without one, its modification date; empty without both. */
  tag: string;
}

/** True if both can be the same version of a file. A missing tag matches any tag. */
export function same(a: Identity, b: Identity): boolean {
  return a.size === b.size && (a.tag === b.tag || a.tag === "" || b.tag === "");
}

/** The receiver of a download's bytes. */
export interface Sink {
  /** Called when an answer begins, with the file's version and the server's support of ranges. */
  begin(identity: Identity, ranges: boolean): void;
  write(at: number, bytes: Uint8Array<ArrayBuffer>): void | Promise<void>;
}

/** A download's context from its caller. */
export interface Link {
  /** The file's name in messages; its kind gives the maximum size. */
  name: string;
  signal: AbortSignal;
  /** Called with every piece that arrives, and with the cause of a wait. */
  heard(bytes: number, note?: string): void;
}

/** Pauses before retries in milliseconds. After as many failures in a row the download fails. */
const BACK_OFF = [250, 500, 1000, 2000, 4000, 8000];
/** A connection that brings less than `PROGRESS` bytes in this many milliseconds counts as lost. */
const SILENCE = 30_000;
/** Bytes that count as progress; an attempt that brings fewer has failed. */
const PROGRESS = 64 << 10;

/** A failure that a retry may fix. */
class Broken extends Error {}

/** Sites with answers that this page may read. */
const readable = new Set<string>();

/**
 * True if a server on another site answers, but CORS hides the answer from the page. If the page
 * may read other files of that site, the answer is an error such as 404: many servers send errors
 * without Access-Control-Allow-Origin.
 */
async function hidden(url: string, signal: AbortSignal): Promise<boolean> {
  if (typeof location === "undefined" || new URL(url).origin === location.origin) return false;
  const answered = fetch(url, { method: "HEAD", mode: "no-cors", cache: "no-store", signal });
  return answered.then(() => true, () => false);
}

/**
 * Fetches `[start, end)`, or up to the file's end, into `sink`; the whole file if the server sends
 * no ranges. `expected` is the version of earlier bytes. Returns false if the file does not exist.
 */
export async function download(
  url: string, [start, end]: [number, number], expected: Identity | undefined, sink: Sink, link: Link,
): Promise<boolean> {
  let identity = expected;
  // The tag of the first answer. The bytes of two answers belong together only if both have this
  // tag.
  let tag: string | undefined;
  // The offset of the next byte, its value when `failures` was last reset, and the failures since.
  let [at, mark, failures] = [start, start, 0];
  for (;;) {
    const attempt = new Attempt(link.signal);
    try {
      const response = await answer(url, at, end, attempt.signal, link.name);
      readable.add(new URL(url).origin);
      if (missing(response)) return false;
      const sent = described(response, [at, end], link.name);
      const whole = sent.size === undefined ? await untold(response, attempt, link) : undefined;
      const size = sent.size ?? whole!.length;
      const most = mostBytes(link.name);
      if (size > most) throw refusal(link.name, `the server says that it has ${megabytes(size)}, and a file of its kind has at most ${megabytes(most)}`);
      const other = tag ? sent.tag !== tag : identity && !same(identity, { size, tag: sent.tag });
      if (other || (identity && identity.size !== size)) {
        throw refusal(link.name, "the file on the server has changed meanwhile; load the model again");
      }
      identity ??= { size, tag: sent.tag };
      tag ??= sent.tag;
      sink.begin(identity, sent.ranged);
      if (whole) {
        await sink.write(0, whole);
        return true;
      }
      at = sent.from;
      const goal = sent.ranged ? Math.min(end, size) : size;
      for await (const bytes of pieces(response, attempt)) {
        if (at + bytes.length > sent.to) throw refusal(link.name, "the server sent more bytes than it announced");
        await sink.write(at, bytes);
        at += bytes.length;
        link.heard(bytes.length);
      }
      if (at >= goal) return true;
      // A server may send less than the requested range, but at least `PROGRESS` bytes.
      if (at < sent.to || at - mark < PROGRESS) throw new Broken();
      [mark, failures] = [at, 0];
    } catch (error) {
      if (link.signal.aborted) throw new ZImageError("cancelled", "cancelled");
      if (!(error instanceof Broken) && !attempt.signal.aborted) throw error;
      if (!identity && (await hidden(url, link.signal))) {
        if (readable.has(new URL(url).origin)) return false;
        throw refusal(link.name, "the server lets no page of another site read it; it has to send Access-Control-Allow-Origin");
      }
      if (at - mark >= PROGRESS) [mark, failures] = [at, 0];
      const wait = BACK_OFF[failures++];
      if (wait === undefined) throw refusal(link.name, lost(url, at, identity));
      link.heard(0, `No answer from ${new URL(url).host}; trying again (${failures} of ${BACK_OFF.length})`);
      await pause(wait, link.signal);
    } finally {
      attempt.end();
    }
  }
}

/**
 * Asks the server for a file's current version by HEAD. Returns `missing` if the file is gone, and
 * `undefined` if the server did not answer.
 */
export async function versionNow(url: string, signal: AbortSignal): Promise<Identity | "missing" | undefined> {
  const attempt = new Attempt(signal);
  try {
    // HEAD ignores the range, but it stops servers from describing a compressed copy of the file.
    const headers = { Range: "bytes=0-" };
    const response = await fetch(url, { method: "HEAD", headers, cache: "no-store", signal: attempt.signal });
    if (missing(response)) return "missing";
    const size = contentLength(response);
    return response.ok && size !== undefined ? { size, tag: tagOf(response) } : undefined;
  } catch {
    return undefined;
  } finally {
    attempt.end();
  }
}

/** One connection. It is aborted with its caller, and if it makes no progress for `SILENCE`. */
class Attempt {
  private readonly controller = new AbortController();
  private readonly abort = () => this.controller.abort();
  private timer = setTimeout(this.abort, SILENCE);
  private brought = 0;

  constructor(private readonly caller: AbortSignal) {
    if (caller.aborted) this.abort();
    caller.addEventListener("abort", this.abort);
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  brings(bytes: number): void {
    this.brought += bytes;
    if (this.brought < PROGRESS) return;
    this.brought = 0;
    clearTimeout(this.timer);
    this.timer = setTimeout(this.abort, SILENCE);
  }

  /** Closes the connection if the server still sends. */
  end(): void {
    clearTimeout(this.timer);
    this.caller.removeEventListener("abort", this.abort);
    this.abort();
  }
}

async function answer(url: string, at: number, end: number, signal: AbortSignal, name: string): Promise<Response> {
  const headers = { Range: `bytes=${at}-${end - 1}` };
  const response = await fetch(url, { headers, cache: "no-store", signal }).catch(() => Promise.reject(new Broken()));
  const [asked, reached] = [new URL(url).protocol, new URL(response.url || url).protocol];
  if (reached === asked || reached === "https:") return response;
  throw refusal(name, `the server leads from ${asked}// on to ${reached}//, where no model is read from`);
}

async function* pieces(response: Response, attempt: Attempt): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const reader = response.body?.getReader();
  try {
    for (;;) {
      // Only a broken connection rejects here.
      const piece = await reader?.read().catch(() => Promise.reject(new Broken()));
      if (!piece || piece.done) return;
      attempt.brings(piece.value.length);
      yield piece.value as Uint8Array<ArrayBuffer>;
    }
  } finally {
    reader?.cancel().catch(() => {});
  }
}

/** Reads a whole file without a Content-Length, if its kind is short. */
async function untold(response: Response, attempt: Attempt, link: Link): Promise<Uint8Array<ArrayBuffer>> {
  const most = mostBytes(link.name);
  if (most > UNTOLD) {
    const help = "use one that sends the header Content-Length and does not compress the file";
    throw refusal(link.name, `the server does not tell how long the file is; ${help}`);
  }
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let total = 0;
  for await (const bytes of pieces(response, attempt)) {
    total += bytes.length;
    if (total > most) throw refusal(link.name, `the server sends more than the ${megabytes(most)} that a file of its kind has at most`);
    parts.push(bytes);
    link.heard(bytes.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** True for 404, 410 and an HTML page, which some servers send instead of a missing file. */
function missing(response: Response): boolean {
  const page = response.ok && (response.headers.get("content-type") ?? "").startsWith("text/html");
  return response.status === 404 || response.status === 410 || page;
}

function tagOf(response: Response): string {
  return response.headers.get("etag") ?? response.headers.get("last-modified") ?? "";
}

/**
 * The size of an answer's body, if known. The Content-Length of a compressed body is a different
 * one.
 */
function contentLength({ headers }: Response): number | undefined {
  const length = headers.get("content-length") ?? "";
  return compressed(headers) || !/^\d+$/.test(length) ? undefined : Number(length);
}

function compressed(headers: Headers): boolean {
  return (headers.get("content-encoding") ?? "identity") !== "identity";
}

/**
 * The content of an answer: bytes `[from, to)` of `size` in all. Only a whole file may omit them.
 */
interface Sent {
  from: number;
  to: number;
  size: number | undefined;
  tag: string;
  ranged: boolean;
}

function described(response: Response, [at, end]: [number, number], name: string): Sent {
  const { status, headers } = response;
  const refuse = (problem: string) => refusal(name, problem);
  const tag = tagOf(response);
  const contentRange = headers.get("content-range") ?? "";
  if (status === 206) {
    const range = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(contentRange);
    if (!range) throw refuse("the server sends ranges without telling which (for another site it has to expose the header Content-Range)");
    const [from, last, size] = range.slice(1).map(Number) as [number, number, number];
    if (from !== at || last < from || last >= Math.min(end, size)) throw refuse("the server sent other bytes than asked for");
    if (compressed(headers)) throw refuse("the server compresses parts of the file, which cannot be put together; use one that does not");
    return { from, to: last + 1, size, tag, ranged: true };
  }
  // An empty file has no valid range.
  if (status === 416 && /^bytes \*\/0$/.test(contentRange)) return { from: 0, to: 0, size: 0, tag, ranged: true };
  if (status === 416) throw refuse("the file on the server has become shorter meanwhile; load the model again");
  if (status === 200) {
    const size = contentLength(response);
    return { from: 0, to: size ?? Infinity, size, tag, ranged: false };
  }
  if (status === 401 || status === 403) throw refuse(`the server does not allow reading it (${status}); it may want a login`);
  if (status === 429 || status >= 500) throw new Broken();
  throw refuse(`the server answered ${status}`);
}

function refusal(name: string, problem: string): ZImageError {
  return new ZImageError(`${name}: ${problem}`, "files");
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function lost(url: string, at: number, identity: Identity | undefined): string {
  const where = identity?.size ? ` after ${(at / 1e6).toFixed(1)} of ${megabytes(identity.size)}` : "";
  return `the connection to ${new URL(url).host} was lost${where}; try again, which goes on from there`;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const cancel = () => {
      clearTimeout(timer);
      reject(new ZImageError("cancelled", "cancelled"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", cancel);
      resolve();
    }, ms);
    signal.addEventListener("abort", cancel, { once: true });
  });
}
