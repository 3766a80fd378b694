/** What the page and the worker say to each other. One worker holds one engine and runs one job at a time. */

import type { Backend, ErrorKind, Info, ParityReport, ParityRow, Request, Timings } from "./types.js";

/** A model as it reaches the worker: an address, or the files of a picked folder by their paths inside it. */
export type Files = { url: string } | { name: string; files: Map<string, File> };

/** From the page. */
export type Order =
  | { type: "load"; model: Files; backend: Backend }
  | { type: "draw"; request: Request; preview: boolean }
  | { type: "parity"; filter: string; seed: number; backend: string }
  | { type: "cancel" };

/** Eight-bit RGBA, row by row. */
export interface Pixels {
  width: number;
  height: number;
  rgba: Uint8Array<ArrayBuffer>;
}

/** What a finished run gives. */
export interface Drawn extends Pixels {
  png: Uint8Array<ArrayBuffer>;
  timings: Timings;
  warnings: string[];
  info: Required<Request> & { model: string; version: string };
}

/** What an engine says while it draws. */
export interface DrawEvent {
  stage: "text" | "step" | "vae";
  done: number;
  of: number;
  preview?: Pixels;
}

/** From the worker. Every order but `cancel` ends in `done` or `failed`. */
export type Report =
  | { type: "loading"; done: number; of: number; fetched: number; note: string | undefined }
  | { type: "drawing"; event: DrawEvent }
  | { type: "row"; row: ParityRow }
  | { type: "done"; value: Info | Drawn | ParityReport; heapBytes: number }
  | { type: "failed"; message: string; kind: ErrorKind; reason: "lost" | "memory" | undefined };
