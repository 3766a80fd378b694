/**
 * What the module's functions take and return. The worker and the page share these types, and embedders see them.
 */

/** Which backend computes: `auto` is WebGPU where the browser has a GPU for it, else the processor. */
export type Backend = "auto" | "webgpu" | "cpu";

/** Where a model's files are, in the layout of a diffusers folder. */
export type ModelSource =
  /** The folder's address, such as `https://example.org/models/emoji/`; a Hugging Face repository's page does as well. */
  | string
  | URL
  /** A folder that was picked from disk: what `<input type="file" webkitdirectory>` gives. */
  | Iterable<File>
  /** A folder that was picked from disk: what `showDirectoryPicker()` gives. */
  | FileSystemDirectoryHandle;

/** How far loading has come, in bytes of the model's weights. */
export interface LoadProgress {
  /** Bytes that are here, whether fetched now or kept from before. */
  done: number;
  /** Bytes in all; 0 while it is not known. */
  of: number;
  /** Bytes that came over the network, the small files included. */
  fetched: number;
  /** A sentence on what is being waited for, when something is: a lost connection, for example. */
  note?: string;
}

/** What to draw. What is left out is the model's default. */
export interface Request {
  prompt: string;
  /** What should not be seen; read only where `guidance` is above 0. */
  negative?: string;
  /** Pixels, a multiple of `info.limits.multiple`. */
  width?: number;
  /** Pixels, a multiple of `info.limits.multiple`. */
  height?: number;
  /** Steps from noise to picture. */
  steps?: number;
  /** diffusers' `guidance_scale`: the CFG scale of other tools less one; 0 is off. */
  guidance?: number;
  /** The noise's seed: the same seed and request draw the same picture. 0 when left out. */
  seed?: number;
}

/** How far a picture has come. */
export interface DrawProgress {
  /** The text is being read, a step has ended, or the pixels are being decoded. */
  stage: "text" | "step" | "vae";
  /** Steps done, when `stage` is `step`. */
  done: number;
  /** Steps in all. */
  of: number;
  /** The picture so far, coarse and cheap, when it was asked for. */
  preview?: ImageData;
}

/** Milliseconds that the parts of a run took. */
export interface Timings {
  textEncoder: number;
  /** All steps. */
  transformer: number;
  /** Each step. */
  steps: number[];
  vae: number;
  total: number;
}

/** A finished picture. */
export interface Picture {
  width: number;
  height: number;
  /** The pixels, for a canvas. */
  pixels: ImageData;
  /** The file, with prompt, seed and settings in its texts. */
  png: Blob;
  /** What made it: the whole request, defaults included. */
  info: Required<Request> & { model: string; version: string };
  timings: Timings;
  /** What the user should know about the request, a sentence each. */
  warnings: string[];
}

/** The loaded model and what runs it. */
export interface Info {
  model: string;
  /** `webgpu` or `cpu`. */
  backend: string;
  /** The device in words. */
  device: string;
  /** Which variant of the shaders runs, such as `plain shaders`; empty without shaders. */
  variant: string;
  defaults: {
    width: number;
    height: number;
    steps: number;
    guidance: number;
    /** The sizes that the model was trained for, in pixels, the best first; empty where its files do not say. */
    sizes: [width: number, height: number][];
  };
  /** Sides are multiples of `multiple` pixels, up to `maxWidth` and `maxHeight`. */
  limits: { multiple: number; maxWidth: number; maxHeight: number };
  /** What is odd about the model's files without being an error, and whether they could be kept; a sentence each. */
  warnings: string[];
}

/** One op of a parity report, or one stage, with all of its cases. */
export interface ParityRow {
  op: string;
  cases: number;
  passed: boolean;
  /** The case that came closest to its tolerance, or went furthest past it. */
  worst: ParityCase;
  failures: ParityCase[];
}

/** One case; an error of `null` is infinite. */
export interface ParityCase {
  case: string;
  error: number | null;
  tolerance: number;
  reason: string;
  problem?: string;
}

/** How `webgpu` compares with `cpu` in this browser: the document that `zimage parity --json` prints for one backend. */
export interface ParityReport {
  reference: string;
  candidate: string;
  seed: number;
  activations: string;
  operands: string;
  rows: ParityRow[];
}

/** What has to change for it to work: the request, the files, the device, or (`internal`) this program. */
export type ErrorKind = "request" | "files" | "device" | "cancelled" | "internal";

/** Everything that goes wrong: the message is one sentence for the person who asked. */
export class ZImageError extends Error {
  override readonly name = "ZImageError";

  /**
   * @param reason of a device error: `lost` when the device has gone and a new engine is needed, `memory` when its memory
   *   did not suffice.
   */
  constructor(
    message: string,
    readonly kind: ErrorKind,
    readonly reason?: "lost" | "memory",
  ) {
    super(message);
  }
}
