/**
 * One range of one file over HTTP, whatever happens on the way: a lost connection goes on from where it broke, a server
 * that ignores ranges is read from its start, and an answer that is not what was asked for ends in a sentence.
 */

import { ZImageError } from "../../types.js";

/** What tells one version of a file from another. */
export interface Identity {
  /** Bytes. */
  size: number;
  /** The server's ETag or, without one, its modification date; empty when it says neither. */
  tag: string;
}

/** Whether both can be the same version of a file: a server that says less does not contradict. */
export function same(a: Identity, b: Identity): boolean {
  return a.size === b.size && (a.tag === b.tag || a.tag === "" || b.tag === "");
}

/** Where the bytes go. */
export interface Sink {
  /** The answer has begun: which version of the file it is, and whether the server sends ranges of it. */
  begin(identity: Identity, ranges: boolean): void;
  write(at: number, bytes: Uint8Array<ArrayBuffer>): void;
}

/** What the caller of a download knows and wants to know. */
export interface Link {
  /** The file's name in messages. */
  name: string;
  signal: AbortSignal;
  /** Hears of every piece that arrives, and of what is being waited for. */
  heard(bytes: number, note?: string): void;
}

/** Waits before further attempts in milliseconds; as many in a row without a byte are given up after. */
const BACK_OFF = [250, 500, 1000, 2000, 4000, 8000];
/** Silence that counts as a lost connection, in milliseconds. */
const SILENCE = 30_000;

/** Something that another attempt may mend. */
class Broken extends Error {}

/**
 * Fetches `[start, end)`, or up to the file's end, into `sink`; the whole file when the server sends no ranges. `expected`
 * is the version that earlier bytes were of. Returns whether there is such a file.
 */
export async function download(
  url: string, [start, end]: [number, number], expected: Identity | undefined, sink: Sink, link: Link,
): Promise<boolean> {
  let [at, identity, failures] = [start, expected, 0];
  for (;;) {
    const attempt = new AbortController();
    const cancel = () => attempt.abort();
    link.signal.addEventListener("abort", cancel);
    let watch = setTimeout(cancel, SILENCE);
    try {
      const response = await answer(url, at, end, attempt.signal);
      if (missing(response)) return false;
      const sent = described(response, at, link.name);
      if (identity && sent.size !== undefined && !same(identity, { size: sent.size, tag: sent.tag })) {
        throw new ZImageError(`${link.name}: the file on the server has changed meanwhile; load the model again`, "files");
      }
      identity ??= { size: sent.size ?? Number.NaN, tag: sent.tag };
      sink.begin(identity, sent.ranged);
      if (identity.size === 0) return true;
      at = sent.from;
      const last = Math.min(sent.ranged ? end : Infinity, sent.size ?? Infinity);
      for await (const bytes of pieces(response)) {
        clearTimeout(watch);
        watch = setTimeout(cancel, SILENCE);
        if (at + bytes.length > last) throw new ZImageError(`${link.name}: the server sent more bytes than asked for`, "files");
        sink.write(at, bytes as Uint8Array<ArrayBuffer>);
        at += bytes.length;
        failures = 0;
        link.heard(bytes.length);
      }
      if (Number.isNaN(identity.size)) identity.size = at;
      if (at >= Math.min(last, identity.size)) return true;
      throw new Broken();
    } catch (error) {
      if (link.signal.aborted) throw new ZImageError("cancelled", "cancelled");
      if (!(error instanceof Broken) && !attempt.signal.aborted) throw error;
      const wait = BACK_OFF[failures++];
      if (wait === undefined) throw new ZImageError(lost(url, at, identity, link.name), "files");
      link.heard(0, `No answer from ${new URL(url).host}; trying again (${failures} of ${BACK_OFF.length})`);
      await pause(wait, link.signal);
    } finally {
      clearTimeout(watch);
      link.signal.removeEventListener("abort", cancel);
    }
  }
}

/**
 * The version of a file that is on the server now, without its bytes: `missing` when it is gone, `undefined` when the
 * server cannot be asked, which says nothing about the file.
 */
export async function versionNow(url: string, signal: AbortSignal): Promise<Identity | "missing" | undefined> {
  try {
    // A range, which HEAD has no use for, keeps servers from describing a compressed copy of the file instead.
    const headers = { Range: "bytes=0-" };
    const response = await fetch(url, { method: "HEAD", headers, cache: "no-store", signal });
    if (missing(response)) return "missing";
    const length = response.headers.get("content-length");
    return response.ok && length !== null ? { size: Number(length), tag: tag(response) } : undefined;
  } catch {
    return undefined;
  }
}

async function answer(url: string, at: number, end: number, signal: AbortSignal): Promise<Response> {
  try {
    const headers = { Range: `bytes=${at}-${end - 1}` };
    return await fetch(url, { headers, cache: "no-store", signal });
  } catch {
    throw new Broken();
  }
}

async function* pieces(response: Response): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  try {
    for (;;) {
      // A connection that breaks rejects here, and only here.
      const piece = await reader?.read().catch(() => Promise.reject(new Broken()));
      if (!piece || piece.done) return;
      yield piece.value;
    }
  } finally {
    reader?.cancel().catch(() => {});
  }
}

/** A page instead of a file is how some servers say that there is none. */
function missing(response: Response): boolean {
  const page = response.ok && (response.headers.get("content-type") ?? "").startsWith("text/html");
  return response.status === 404 || response.status === 410 || page;
}

function tag(response: Response): string {
  return response.headers.get("etag") ?? response.headers.get("last-modified") ?? "";
}

/** What an answer says that it sends: from where, of how many bytes in all. */
function described(
  response: Response, at: number, name: string,
): { from: number; size: number | undefined; tag: string; ranged: boolean } {
  const { status, headers } = response;
  const refuse = (problem: string) => new ZImageError(`${name}: ${problem}`, "files");
  if (status === 206) {
    const range = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(headers.get("content-range") ?? "");
    if (!range) throw refuse("the server sends ranges without telling which (for another site it has to expose the header Content-Range)");
    if (Number(range[1]) !== at) throw refuse("the server sent other bytes than asked for");
    return { from: at, size: Number(range[3]), tag: tag(response), ranged: true };
  }
  // A file of no bytes has no range that could be sent.
  const empty = /^bytes \*\/0$/.test(headers.get("content-range") ?? "");
  if (status === 416 && empty) return { from: 0, size: 0, tag: tag(response), ranged: true };
  if (status === 416) throw refuse("the file on the server has become shorter meanwhile; load the model again");
  if (status === 200) {
    const length = headers.get("content-encoding") ? null : headers.get("content-length");
    return { from: 0, size: length === null ? undefined : Number(length), tag: tag(response), ranged: false };
  }
  if (status === 401 || status === 403) throw refuse(`the server does not allow reading it (${status}); it may want a login`);
  if (status === 429 || status >= 500) throw new Broken();
  throw refuse(`the server answered ${status}`);
}

function lost(url: string, at: number, identity: Identity | undefined, name: string): string {
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);
  const where = identity?.size ? ` after ${megabytes(at)} of ${megabytes(identity.size)} MB` : "";
  return `${name}: the connection to ${new URL(url).host} was lost${where}; try again, which goes on from there`;
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
