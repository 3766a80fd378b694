/**
 * A file server for the tests that imitates bad servers and networks: it refuses ranges, throttles,
 * cuts connections, and loses or changes files. It records every request.
 */

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as pause } from "node:timers/promises";

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml",
  ".wasm": "application/wasm", ".json": "application/json",
};

/** Bytes of one write. */
const PIECE = 1 << 16;

/** One request and its answer. */
export interface Asked {
  method: string;
  path: string;
  range: string | undefined;
  status: number;
  /** Bytes of the answer that were written to the network. */
  sent: number;
}

/** Network conditions for files of weights; all other files are served normally. */
export interface Weather {
  /** Answers range requests. */
  ranges: boolean;
  /** Bytes a second. */
  rate: number;
  /** Total bytes after which the connection breaks, once for each entry. */
  cuts: number[];
  /** Called when a connection breaks. */
  cut(): void;
  /** Answers every request for weights with this status instead. */
  status: number | undefined;
}

/** The bytes of a file: a `Buffer`, or a generator that needs no memory for them. */
export interface Content {
  readonly length: number;
  subarray(start: number, end: number): Buffer;
}

export const FAIR: Readonly<Weather> = { ranges: true, rate: Infinity, cuts: [], cut() {}, status: undefined };

export class TestServer {
  weather: Weather = { ...FAIR, cuts: [] };
  readonly asked: Asked[] = [];
  /** Files served instead of those on disk, by path; `undefined` for a missing file. */
  readonly replaced = new Map<string, Content | undefined>();
  /** Version numbers of the replacements. */
  private readonly versions = new WeakMap<Content, number>();
  private latest = 0;
  private sentOfWeights = 0;

  private constructor(
    private readonly server: Server,
    private readonly root: string,
  ) {}

  static async serve(root: string): Promise<TestServer> {
    const http = createServer();
    const server = new TestServer(http, root);
    http.on("request", (request, response) => {
      server.answer(request, response).catch(() => response.destroy());
    });
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    return server;
  }

  get origin(): string {
    return `http://localhost:${(this.server.address() as AddressInfo).port}`;
  }

  /** Requests for files of weights. */
  get weights(): Asked[] {
    return this.asked.filter(({ path }) => isWeights(path));
  }

  /** Bytes of weights sent. */
  get sent(): number {
    return this.weights.reduce((sum, { sent }) => sum + sent, 0);
  }

  /** Restores fair weather and clears the records. */
  reset(): void {
    this.weather = { ...FAIR, cuts: [] };
    this.asked.length = 0;
    this.replaced.clear();
    this.sentOfWeights = 0;
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "GET" } = request;
    const path = pathOf(request.url ?? "/");
    if (path === undefined) return void response.writeHead(400).end();
    const asked: Asked = { method, path, range: request.headers.range, status: 200, sent: 0 };
    this.asked.push(asked);
    const weather = isWeights(path) ? this.weather : FAIR;
    const finish = (status: number) => {
      asked.status = status;
      response.writeHead(status).end();
    };
    const file = join(this.root, normalize(path));
    const replaced = this.replaced.get(path);
    const found = await stat(file).catch(() => undefined);
    if (weather.status) return finish(weather.status);
    if (this.replaced.has(path) ? !replaced : !found?.isFile()) return finish(404);
    const size = replaced?.length ?? found!.size;
    const version = replaced ? `replaced-${this.version(replaced)}` : `${size}-${found!.mtimeMs}`;
    response.setHeader("content-type", TYPES[extname(path)] ?? "application/octet-stream");
    response.setHeader("etag", `"${version}"`);
    // Models may be on another site than the page.
    response.setHeader("access-control-allow-origin", "*");
    response.setHeader("access-control-expose-headers", "content-range, etag");
    let [start, end] = [0, size];
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    if (range && weather.ranges && method === "GET") {
      start = Number(range[1]);
      end = Math.min(range[2] ? Number(range[2]) + 1 : size, size);
      if (start >= size) {
        response.setHeader("content-range", `bytes */${size}`);
        return finish(416);
      }
      response.setHeader("content-range", `bytes ${start}-${end - 1}/${size}`);
      asked.status = 206;
    }
    response.setHeader("content-length", end - start);
    response.writeHead(asked.status);
    if (method === "HEAD" || start === end) return void response.end();
    const pieces: AsyncIterable<Buffer> = replaced
      ? Readable.from(chunked(replaced, start, end))
      : createReadStream(file, { start, end: end - 1, highWaterMark: PIECE });
    await pipeline(this.sending(pieces, asked, weather), response);
  }

  private version(content: Content): number {
    const version = this.versions.get(content) ?? ++this.latest;
    this.versions.set(content, version);
    return version;
  }

  /** Sends the pieces at the weather's rate until the connection breaks. */
  private async *sending(pieces: AsyncIterable<Buffer>, asked: Asked, weather: Readonly<Weather>): AsyncGenerator<Buffer> {
    for await (const piece of pieces) {
      if (weather !== FAIR) {
        this.sentOfWeights += piece.length;
        const cut = this.weather.cuts[0];
        if (cut !== undefined && this.sentOfWeights > cut) {
          this.weather.cuts.shift();
          // Earlier bytes arrive before the cut, so the loss does not depend on the machine's load.
          await pause(200);
          this.weather.cut();
          throw new Error("the connection is cut");
        }
        if (weather.rate !== Infinity) await pause((piece.length / weather.rate) * 1000);
      }
      asked.sent += piece.length;
      yield piece;
    }
  }
}

/** The path of a request's address; `undefined` if its encoding is invalid. */
function pathOf(address: string): string | undefined {
  try {
    return decodeURIComponent(new URL(address, "http://localhost").pathname).replace(/\/$/, "/index.html");
  } catch {
    return undefined;
  }
}

function isWeights(path: string): boolean {
  return path.endsWith(".safetensors") || path.endsWith(".gguf");
}

function* chunked(content: Content, start: number, end: number): Generator<Buffer> {
  for (let at = start; at < end; at += PIECE) yield content.subarray(at, Math.min(at + PIECE, end));
}
