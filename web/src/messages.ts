/** Messages between page and worker. One worker has one engine and runs one job at a time. */

import type {
  Backend, ErrorKind, ErrorReason, Info, Offload, ParityReport, ParityRow, Plan, Request, Timings,
} from "./types.js";

/**
 * A model for the worker: addresses; or picked files by their paths, which are relative to a
 * folder, or all those of single files.
 */
export type Files = { urls: string[] } | { name: string; files: Map<string, File>; singles: string[] };

/** The memory that a model may take, and the size of the picture that it is for. */
export interface Wishes {
  offload?: Offload;
  maxMemory?: number;
  width?: number;
  height?: number;
}

/** A message from the page. */
export type Order =
  | { type: "plan"; model: Files; backend: Backend; wishes: Wishes }
  | { type: "load"; model: Files; backend: Backend; wishes: Wishes }
  | { type: "draw"; request: Request; preview: boolean }
  | { type: "parity"; filter: string; seed: number; backend: string }
  | { type: "cancel" };

/** Eight-bit RGBA, row by row. */
export interface Pixels {
  width: number;
  height: number;
  rgba: Uint8Array<ArrayBuffer>;
}

/** The output of a finished run. */
export interface Drawn extends Pixels {
  png: Uint8Array<ArrayBuffer>;
  timings: Timings;
  warnings: string[];
  info: Required<Request> & { model: string; version: string };
}

/** Progress of an engine that draws. */
export interface DrawEvent {
  stage: "load" | "text" | "step" | "vae";
  done: number;
  of: number;
  preview?: Pixels;
}

/** A message from the worker. Every order except `cancel` ends in `done` or `failed`. */
export type Report =
  | { type: "loading"; done: number; of: number; fetched: number; note: string | undefined }
  | { type: "drawing"; event: DrawEvent }
  | { type: "row"; row: ParityRow }
  | { type: "done"; value: Info | Plan | Drawn | ParityReport; heapBytes: number }
  | { type: "failed"; message: string; kind: ErrorKind; reason: ErrorReason | undefined };
