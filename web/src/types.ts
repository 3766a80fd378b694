/** Argument and result types of the module's functions, shared by worker, page and embedders. */

/** The backend: `auto` is WebGPU if the browser has a GPU for it, else the processor. */
export type Backend = "auto" | "webgpu" | "cpu";

/**
 * The place of a model's files: a diffusers folder; or single files, such as ComfyUI's and GGUF,
 * and `tokenizer.json`.
 */
export type ModelSource =
  /**
   * The address of a diffusers folder, such as `https://example.org/models/emoji/`, of a Hugging
   * Face repository, or of a single file.
   */
  | string
  | URL
  /** Addresses of single files, and of at most one folder whose parts they replace. */
  | Iterable<string | URL>
  /** Single files, or the files of a folder, picked by `<input type="file">`. */
  | Iterable<File>
  /** The handle of a folder, from `showDirectoryPicker()`. */
  | FileSystemDirectoryHandle;

/** The progress of loading, in bytes of the model's weights. */
export interface LoadProgress {
  /** Bytes loaded, from the network or from the browser's storage. */
  done: number;
  /** Bytes in all; 0 while the sum is unknown. */
  of: number;
  /** Bytes from the network, including the small files. */
  fetched: number;
  /** A sentence on the cause of a wait, a lost connection for example. */
  note?: string;
}

/** A request for a picture. Missing fields get the model's defaults. */
export interface Request {
  prompt: string;
  /** The negative prompt; used only if `guidance` is above 0. */
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

/** The progress of a picture. */
export interface DrawProgress {
  /**
   * A network is being loaded in place of another, the text is being read, a step has ended, or the
   * pixels are being decoded.
   */
  stage: "load" | "text" | "step" | "vae";
  /** Finished steps, or loaded bytes if `stage` is `load`. */
  done: number;
  /** Steps or bytes in all. */
  of: number;
  /** A coarse preview of the picture, if the caller asked for previews. */
  preview?: ImageData;
}

/** Times of a run's parts in milliseconds. */
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
  /** The PNG file, with prompt, seed and settings in its text chunks. */
  png: Blob;
  /** The whole request, including defaults. */
  info: Required<Request> & { model: string; version: string };
  timings: Timings;
  /** Warnings about the request for the user, a sentence each. */
  warnings: string[];
}

/**
 * The networks on the GPU: `none` keeps all of them there; `sequential` has the text encoder there
 * for the prompt and then the transformer, so that each picture loads both; `auto` is `none` for
 * models of up to 2 GB, else `sequential`, or, with a limit of the memory, the first that fits.
 */
export type Offload = "auto" | "none" | "sequential";

/** The amounts that a model would take, known before its weights are fetched. */
export interface Plan {
  model: string;
  /** `webgpu` or `cpu`. */
  backend: string;
  /** The device in words. */
  device: string;
  /** Bytes of the model's weights. */
  bytes: number;
  /** Bytes that loading would fetch: those that the browser's storage does not have. */
  download: number;
  /** Bytes of memory at the peak, of the GPU or of the processor, without the browser's own. */
  memory: number;
  /** The networks on the GPU. */
  offload: Exclude<Offload, "auto">;
  /** The plan in a line. */
  words: string;
  /** The reasons why this device cannot draw the picture, a sentence each; none if it can. */
  obstacles: string[];
}

/** The loaded model and its device. */
export interface Info {
  model: string;
  /** `webgpu` or `cpu`. */
  backend: string;
  /** The device in words. */
  device: string;
  /** The variant of the shaders, such as `plain shaders`; empty without shaders. */
  variant: string;
  defaults: {
    width: number;
    height: number;
    steps: number;
    guidance: number;
    /** Trained sizes in pixels, best first; empty if the model's files do not list them. */
    sizes: [width: number, height: number][];
  };
  /** Sides are multiples of `multiple` pixels, up to `maxWidth` and `maxHeight`. */
  limits: { multiple: number; maxWidth: number; maxHeight: number };
  /** Warnings about the model's files and about caching them, a sentence each. */
  warnings: string[];
  /** The networks on the device. */
  offload: Exclude<Offload, "auto">;
}

/** One op of a parity report, or one stage, with all of its cases. */
export interface ParityRow {
  op: string;
  cases: number;
  passed: boolean;
  /** The case with the largest error relative to its tolerance. */
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

/**
 * The comparison of `webgpu` with `cpu`: the document of `zimage parity --json` for one backend.
 */
export interface ParityReport {
  reference: string;
  candidate: string;
  seed: number;
  activations: string;
  operands: string;
  rows: ParityRow[];
}

/** The cause of an error: the request, the files, the device, or (`internal`) this program. */
export type ErrorKind = "request" | "files" | "device" | "cancelled" | "internal";

/**
 * The cause of some errors: `lost` if the device is gone and a new engine is needed, `memory` if
 * the device has too little memory, `part` if no file has a part of the model.
 */
export type ErrorReason = "lost" | "memory" | "part";

/** An error of the module. Its message is one sentence for the user. */
export class ZImageError extends Error {
  override readonly name = "ZImageError";

  constructor(
    message: string,
    readonly kind: ErrorKind,
    readonly reason?: ErrorReason,
  ) {
    super(message);
  }
}
