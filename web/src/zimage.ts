/**
 * Z-Image in a web page. The engine runs in its own worker, so the page never stalls. Nothing is
 * sent to a server.
 *
 *     import { ZImage } from "./zimage.js";
 *
 *     const zimage = await ZImage.load({ onProgress: ({ done, of }) => console.log(`${done} of ${of} bytes`) });
 *     const picture = await zimage.draw({ prompt: "a red fox", seed: 7 });
 *     document.body.append(Object.assign(new Image(), { src: URL.createObjectURL(picture.png) }));
 */

import type { DrawEvent, Drawn, Files, Order, Pixels, Report, Wishes } from "./messages.js";
import { pickedModel } from "./picked.js";
import type {
  Backend, DrawProgress, Info, LoadProgress, ModelSource, Offload, ParityReport, ParityRow, Picture, Plan, Request,
} from "./types.js";
import { ZImageError } from "./types.js";

export type * from "./types.js";
export { ZImageError } from "./types.js";

/** The small model in the folder of this module. */
export const EMBEDDED_MODEL = new URL("models/emoji/", import.meta.url).href;

/** Options for planning a model. */
export interface PlanOptions {
  /** The model's place; the embedded model by default. */
  model?: ModelSource;
  /** The backend; `auto` by default. */
  backend?: Backend;
  /** The networks on the GPU; `auto` by default. */
  offload?: Offload;
  /** The most bytes of GPU memory to allocate; a browser does not tell how many there are. */
  maxMemory?: number;
  /** Pixels of the picture that the memory is planned for; the model's own by default. */
  width?: number;
  height?: number;
  /** Stops planning or loading. Fetched blocks stay cached for the next time. */
  signal?: AbortSignal;
}

/** Options for loading a model. */
export interface LoadOptions extends PlanOptions {
  onProgress?: (progress: LoadProgress) => void;
}

/** Options for drawing a picture. */
export interface DrawOptions {
  onProgress?: (progress: DrawProgress) => void;
  /** Adds previews to the progress. They cost a wait for the device after every step. */
  preview?: boolean;
  /** Stops the run after the current step, or drops the picture during the decode. */
  signal?: AbortSignal;
}

/** Options for comparing `webgpu` with `cpu`. */
export interface ParityOptions {
  /** Selects cases by a part of their name. */
  filter?: string;
  seed?: number;
  /** The variant: `webgpu` for the best one of the adapter, `webgpu:plain` and so on for others. */
  backend?: string;
  /** Called with the row of each op as soon as the op is done. */
  onRow?: (row: ParityRow) => void;
  signal?: AbortSignal;
}

/** A loaded model. */
export class ZImage {
  private constructor(
    private readonly engine: Engine,
    /** The model and its device. */
    readonly info: Info,
  ) {}

  /**
   * The amounts that a model would take: bytes to fetch and GPU memory. Only headers of its files
   * are fetched.
   */
  static async plan(options: PlanOptions = {}): Promise<Plan> {
    const { model = EMBEDDED_MODEL, backend = "auto", signal } = options;
    const files = await located(model);
    const engine = new Engine();
    try {
      return (await engine.run({ type: "plan", model: files, backend, wishes: wishesOf(options) }, signal, () => {})) as Plan;
    } finally {
      engine.end();
    }
  }

  /** Loads a model. The browser's storage caches its weights, so the next load fetches nothing. */
  static async load(options: LoadOptions = {}): Promise<ZImage> {
    const { model = EMBEDDED_MODEL, backend = "auto", onProgress, signal } = options;
    const files = await located(model);
    const engine = new Engine();
    try {
      const order: Order = { type: "load", model: files, backend, wishes: wishesOf(options) };
      const info = await engine.run(order, signal, (report) => {
        if (report.type !== "loading") return;
        const { done, of, fetched, note } = report;
        onProgress?.({ done, of, fetched, ...(note === undefined ? {} : { note }) });
      });
      return new ZImage(engine, info as Info);
    } catch (error) {
      engine.end();
      throw error;
    }
  }

  /** Draws one picture. A second call while the first runs is refused. */
  async draw(request: Request, options: DrawOptions = {}): Promise<Picture> {
    const { onProgress, preview = false, signal } = options;
    const drawn = (await this.engine.run({ type: "draw", request, preview }, signal, (report) => {
      if (report.type === "drawing") onProgress?.(progressOf(report.event));
    })) as Drawn;
    const { width, height, info, timings, warnings } = drawn;
    const png = new Blob([drawn.png], { type: "image/png" });
    return { width, height, info, timings, warnings, png, pixels: imageData(drawn) };
  }

  /** The size of the wasm heap in bytes. It never shrinks, so this is its peak. */
  get heapBytes(): number {
    return this.engine.heapBytes;
  }

  /** Frees the device's memory and the worker. A current run ends as cancelled. */
  dispose(): void {
    this.engine.end();
  }
}

/** Compares every op of `webgpu` with that of `cpu` in this browser, in a separate worker. */
export async function parity(options: ParityOptions = {}): Promise<ParityReport> {
  const { filter = "", seed = 0, backend = "webgpu", onRow, signal } = options;
  const engine = new Engine();
  const cancel = () => engine.end();
  signal?.addEventListener("abort", cancel);
  try {
    const report = await engine.run({ type: "parity", filter, seed, backend }, signal, (report) => {
      if (report.type === "row") onRow?.(report.row);
    });
    return report as ParityReport;
  } finally {
    signal?.removeEventListener("abort", cancel);
    engine.end();
  }
}

/** The worker and its current job. */
class Engine {
  heapBytes = 0;
  private worker: Worker | undefined = startWorker();
  private job: { settle(report: Report): void; reject(error: ZImageError): void } | undefined;

  constructor() {
    const worker = this.worker!;
    worker.onmessage = ({ data }: MessageEvent<Report>) => this.job?.settle(data);
    // The worker did not start, or the engine failed fatally.
    worker.onerror = (event) => this.end(new ZImageError(fatal(event.message), "internal"));
    worker.onmessageerror = () => this.end(new ZImageError(fatal("a message could not be read"), "internal"));
  }

  run(order: Order, signal: AbortSignal | undefined, each: (report: Report) => void): Promise<unknown> {
    const { worker } = this;
    if (!worker) return Promise.reject(new ZImageError("this engine has ended; load the model again", "request"));
    if (this.job) return Promise.reject(new ZImageError("the engine is busy; wait for it, or cancel it", "request"));
    if (signal?.aborted) return Promise.reject(new ZImageError("cancelled", "cancelled"));
    return new Promise((resolve, reject) => {
      const cancel = () => worker.postMessage({ type: "cancel" } satisfies Order);
      const over = () => {
        this.job = undefined;
        signal?.removeEventListener("abort", cancel);
      };
      const fail = (error: ZImageError) => {
        over();
        reject(error);
      };
      this.job = {
        settle: (report) => {
          if (report.type === "failed") return fail(new ZImageError(report.message, report.kind, report.reason));
          if (report.type !== "done") return each(report);
          this.heapBytes = report.heapBytes;
          // A busy worker reads `cancel` only after its job, so the result of a cancelled job
          // arrives and is dropped.
          if (signal?.aborted) return fail(new ZImageError("cancelled", "cancelled"));
          over();
          resolve(report.value);
        },
        reject: fail,
      };
      signal?.addEventListener("abort", cancel);
      worker.postMessage(order);
    });
  }

  end(error = new ZImageError("cancelled", "cancelled")): void {
    this.worker?.terminate();
    this.worker = undefined;
    this.job?.reject(error);
  }
}

function startWorker(): Worker {
  const script = new URL("./worker/worker.js", import.meta.url);
  if (script.origin === location.origin) return new Worker(new URL("./worker/worker.js", import.meta.url), { type: "module" });
  // Browsers start no worker from another site, but a blob of this page may import its script.
  const starter = URL.createObjectURL(new Blob([`import ${JSON.stringify(script.href)};`], { type: "text/javascript" }));
  return new Worker(starter, { type: "module" });
}

function fatal(message: string | undefined): string {
  return `the engine stopped: ${message || "its script or its wasm could not be loaded"}; load the model again`;
}

async function located(model: ModelSource): Promise<Files> {
  if (typeof model === "string" || model instanceof URL) return { urls: [address(model)] };
  if (model instanceof FileSystemDirectoryHandle) return pickedModel(model);
  const given = [...model];
  const addresses = given.filter((one): one is string | URL => !(one instanceof File));
  if (addresses.length === 0 && given.length > 0) return pickedModel(given.filter((one) => one instanceof File));
  if (addresses.length === 0 || addresses.length < given.length) {
    throw new ZImageError("expected addresses of a model's files, or the files themselves, and not both", "request");
  }
  return { urls: addresses.map(address) };
}

function wishesOf({ offload, maxMemory, width, height }: PlanOptions): Wishes {
  const wishes = { offload, maxMemory, width, height };
  return Object.fromEntries(Object.entries(wishes).filter(([, value]) => value !== undefined));
}

function address(text: string | URL): string {
  if (URL.canParse(text, document.baseURI)) return new URL(text, document.baseURI).href;
  throw new ZImageError(`${JSON.stringify(text)} is no address; expected that of a model's folder or file, such as https://…`, "request");
}

function progressOf({ stage, done, of, preview }: DrawEvent): DrawProgress {
  return { stage, done, of, ...(preview ? { preview: imageData(preview) } : {}) };
}

function imageData({ rgba, width, height }: Pixels): ImageData {
  return new ImageData(new Uint8ClampedArray(rgba.buffer, rgba.byteOffset, rgba.byteLength), width, height);
}
