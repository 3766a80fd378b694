/**
 * The engine's own thread: loads the wasm, gives it a model's files, and runs one job at a time.
 */

import type { DrawEvent, Drawn, Files, Order, Report } from "../messages.js";
import type { Info, ParityReport, ParityRow, Plan } from "../types.js";
import { ZImageError } from "../types.js";
import start, { heapBytes, parity, plan, ZImageEngine } from "../wasm/zimage.js";
import { PickedFiles } from "./files/picked.js";
import { type Heard, RemoteFiles } from "./files/remote.js";

let engine: ZImageEngine | undefined;
/** The files of a model whose networks are loaded again for each picture. */
let files: PickedFiles | RemoteFiles | undefined;
let cancelled = new AbortController();
const started = start();

onmessage = async ({ data: order }: MessageEvent<Order>) => {
  if (order.type === "cancel") return cancelled.abort();
  cancelled = new AbortController();
  try {
    await started;
    const value = await run(order, cancelled.signal);
    post({ type: "done", value, heapBytes: heapBytes() });
  } catch (error) {
    post(failed(error));
  }
};

function run(order: Exclude<Order, { type: "cancel" }>, signal: AbortSignal): Promise<Info | Plan | Drawn | ParityReport> {
  switch (order.type) {
    case "plan":
      return planned(order, signal);
    case "load":
      return load(order, signal);
    case "draw":
      return draw(order, signal);
    case "parity":
      return parity(order.filter, order.seed, order.backend, (row: object) => post({ type: "row", row: row as ParityRow })) as
        Promise<ParityReport>;
  }
}

async function load(order: Extract<Order, { type: "load" }>, signal: AbortSignal): Promise<Info> {
  let [done, of, fetched, note] = [0, 0, 0, undefined as string | undefined];
  const report = () => post({ type: "loading", done: Math.min(Math.max(done, fetched), of), of, fetched, note });
  const heard = (bytes: number, said?: string) => {
    fetched += bytes;
    note = said;
    report();
  };
  return reading(order.model, signal, heard, async (model) => {
    engine = await ZImageEngine.load(model, order.backend, order.wishes, (isDone: number, isOf: number) => {
      [done, of] = [isDone, isOf];
      report();
      return !signal.aborted;
    });
    const info = engine.info() as Info;
    if (info.offload !== "none") files = model;
    return { ...info, warnings: [...info.warnings, ...(model instanceof RemoteFiles ? model.warnings : [])] };
  });
}

/** Reads the headers of a model's files, for the amounts that the model would take. */
function planned({ model, backend, wishes }: Extract<Order, { type: "plan" }>, signal: AbortSignal): Promise<Plan> {
  return reading(model, signal, () => {}, async (files) => {
    const found = (await plan(files, backend, wishes)) as Omit<Plan, "download">;
    return { ...found, download: files instanceof RemoteFiles ? await files.missing() : 0 };
  });
}

/** Runs work on a model's files, and closes them unless the engine reads on. */
async function reading<T>(
  model: Files, signal: AbortSignal, heard: Heard, work: (files: PickedFiles | RemoteFiles) => Promise<T>,
): Promise<T> {
  const opened = "urls" in model ? await RemoteFiles.open(model.urls, signal, heard) : new PickedFiles(model);
  try {
    return await work(opened);
  } catch (error) {
    throw causeOf(error, opened, signal);
  } finally {
    if (opened instanceof RemoteFiles && opened !== files) opened.close();
  }
}

/** The cause of an error: the user, a read that failed, or the error itself. */
function causeOf(error: unknown, files: PickedFiles | RemoteFiles | undefined, signal: AbortSignal): unknown {
  if (signal.aborted) return new ZImageError("cancelled", "cancelled");
  return (files instanceof RemoteFiles && files.failure) || error;
}

async function draw({ request, preview }: Extract<Order, { type: "draw" }>, signal: AbortSignal): Promise<Drawn> {
  if (!engine) throw new ZImageError("no model is loaded", "request");
  const each = (event: DrawEvent) => {
    post({ type: "drawing", event });
    return !signal.aborted;
  };
  if (files instanceof RemoteFiles) files.begin(signal);
  try {
    return (await engine.generate(request, each, preview)) as Drawn;
  } catch (error) {
    throw causeOf(error, files, signal);
  }
}

function post(report: Report): void {
  postMessage(report);
}

function kindOf(error: unknown): ZImageError["kind"] {
  return (error as Partial<ZImageError>).kind ?? "internal";
}

function failed(error: unknown): Report {
  const { message, reason } = error as Partial<ZImageError>;
  return { type: "failed", message: message ?? String(error), kind: kindOf(error), reason };
}

// A trap of the wasm rejects no promise of the page. Throwing makes it an error event of the
// worker.
addEventListener("unhandledrejection", ({ reason }) => {
  throw reason;
});
