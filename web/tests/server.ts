/**
 * A file server for the tests, which does what servers and networks do to a page: answer ranges or refuse them, be slow,
 * cut connections, lose or change files. It writes down what was asked of it.
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

/** How many bytes go out at once. */
const PIECE = 1 << 16;

/** One request, and what was sent for it. */
export interface Asked {
  method: string;
  path: string;
  range: string | undefined;
  status: number;
  /** Bytes of the answer that were handed to the network. */
  sent: number;
}

/** What happens to the files of weights; everything else is served as it should be. */
export interface Weather {
  /** Whether ranges are answered. */
  ranges: boolean;
  /** Bytes a second. */
  rate: number;
  /** After how many bytes in all the connection breaks, once for each entry. */
  cuts: number[];
  /** Called when it breaks. */
  cut(): void;
  /** Answers every request for weights with this status instead. */
  status: number | undefined;
}

/** The bytes of a file, which need not be in memory: a `Buffer`, or what makes them as they are asked for. */
export interface Content {
  readonly length: number;
  subarray(start: number, end: number): Buffer;
}

export const FAIR: Readonly<Weather> = { ranges: true, rate: Infinity, cuts: [], cut() {}, status: undefined };

export class TestServer {
  weather: Weather = { ...FAIR, cuts: [] };
  readonly asked: Asked[] = [];
  /** Files that are served instead of those on disk, by their paths; `undefined` for one that is gone. */
  readonly replaced = new Map<string, Content | undefined>();
  /** Numbers for what files were replaced with: each is a version of its own. */
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

  /** The requests for files of weights. */
  get weights(): Asked[] {
    return this.asked.filter(({ path }) => isWeights(path));
  }

  /** Bytes of weights that were sent. */
  get sent(): number {
    return this.weights.reduce((sum, { sent }) => sum + sent, 0);
  }

  /** Fair weather, and nothing written down. */
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

  /** What reaches the network of these pieces: slowly, and only until the connection breaks. */
  private async *sending(pieces: AsyncIterable<Buffer>, asked: Asked, weather: Readonly<Weather>): AsyncGenerator<Buffer> {
    for await (const piece of pieces) {
      if (weather !== FAIR) {
        this.sentOfWeights += piece.length;
        const cut = this.weather.cuts[0];
        if (cut !== undefined && this.sentOfWeights > cut) {
          this.weather.cuts.shift();
          // What was sent before arrives, so that what a cut loses does not depend on how busy the machine is.
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

/** The file that an address asks for; `undefined` for one that encodes no text. */
function pathOf(address: string): string | undefined {
  try {
    return decodeURIComponent(new URL(address, "http://localhost").pathname).replace(/\/$/, "/index.html");
  } catch {
    return undefined;
  }
}

function isWeights(path: string): boolean {
  return path.endsWith(".safetensors");
}

function* chunked(content: Content, start: number, end: number): Generator<Buffer> {
  for (let at = start; at < end; at += PIECE) yield content.subarray(at, Math.min(at + PIECE, end));
}
