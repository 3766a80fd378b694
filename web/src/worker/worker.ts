/**
 * The engine's own thread: loads the wasm, gives it a model's files, and runs one job at a time.
 */

import type { DrawEvent, Drawn, Order, Report } from "../messages.js";
import type { Info, ParityReport, ParityRow } from "../types.js";
import { ZImageError } from "../types.js";
import start, { heapBytes, parity, ZImageEngine } from "../wasm/zimage.js";
import { PickedFiles } from "./files/picked.js";
import { RemoteFiles } from "./files/remote.js";

let engine: ZImageEngine | undefined;
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

function run(order: Exclude<Order, { type: "cancel" }>, signal: AbortSignal): Promise<Info | Drawn | ParityReport> {
  switch (order.type) {
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
  const { model } = order;
  const files = "urls" in model ? await RemoteFiles.open(model.urls, signal, heard) : new PickedFiles(model);
  try {
    engine = await ZImageEngine.load(files, order.backend, (isDone: number, isOf: number) => {
      [done, of] = [isDone, isOf];
      report();
      return !signal.aborted;
    });
  } catch (error) {
    if (signal.aborted) throw new ZImageError("cancelled", "cancelled");
    if (!(files instanceof RemoteFiles)) throw error;
    throw files.failure ?? error;
  } finally {
    if (files instanceof RemoteFiles) files.close();
  }
  const info = engine.info() as Info;
  return { ...info, warnings: [...info.warnings, ...(files instanceof RemoteFiles ? files.warnings : [])] };
}

async function draw({ request, preview }: Extract<Order, { type: "draw" }>, signal: AbortSignal): Promise<Drawn> {
  if (!engine) throw new ZImageError("no model is loaded", "request");
  const each = (event: DrawEvent) => {
    post({ type: "drawing", event });
    return !signal.aborted;
  };
  return (await engine.generate(request, each, preview)) as Drawn;
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
