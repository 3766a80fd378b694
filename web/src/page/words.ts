/** The page's messages: missing browser features, errors and durations in plain words. */

import type { Info, Plan, ZImageError } from "../zimage.js";

/** The reasons why WebGPU is missing, a sentence each with a remedy; empty if WebGPU works. */
export async function withoutGpu(): Promise<string[]> {
  if (!isSecureContext) {
    return ["Browsers allow WebGPU only on pages that come over https or from localhost: open this page that way."];
  }
  if (!navigator.gpu) {
    return [
      "This browser has no WebGPU, which the GPU is reached through.",
      "Chrome and Edge have it from version 113, Safari from 26 and Firefox from 141 (Windows) or 145 (macOS): update, or use" +
        " one of them. On Linux, Chrome wants chrome://flags/#enable-unsafe-webgpu, and Firefox dom.webgpu.enabled in about:config.",
    ];
  }
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  if (adapter) return [];
  return [
    "This browser has WebGPU but offers no GPU to it.",
    "Turn hardware acceleration on in its settings, update the graphics driver, or, where the driver is on Chrome's block list," +
      " set chrome://flags/#enable-unsafe-webgpu; chrome://gpu says what is wrong.",
  ];
}

/**
 * The device and its variant in words. The page knows the GPU's name; wgpu in a browser does not.
 */
export async function deviceOf({ backend, device, variant }: Info): Promise<string> {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const { vendor = "", architecture = "", description = "", isFallbackAdapter = false } = adapter?.info ?? {};
  if (backend === "cpu") {
    return `Drawing on the processor${isFallbackAdapter ? ", which is faster than the software GPU of this browser" : ""}`;
  }
  const name = description || [vendor, architecture].filter(Boolean).join(" ");
  return `Drawing through WebGPU on ${name ? `${name}, ${variant}` : device}`;
}

/** The amounts of a plan, a sentence each, and the reasons why this device cannot run it. */
export function amounts({ model, backend, bytes: all, download, memory, obstacles, offload }: Plan): string[] {
  // Planning itself stores the headers.
  const stored = download < 0.9 * all ? `; ${bytes(all - download)} are in this browser's storage already` : "";
  const fetched = `${model} has ${bytes(all)} of weights: loading it downloads ${bytes(download)}${stored}.`;
  if (backend === "cpu") return [fetched, `It needs ${bytes(memory)} of memory on the processor.`];
  const turns = {
    none: "All of it is on the GPU at once.",
    sequential: "The text encoder is freed before the transformer loads, so every picture loads both again.",
  }[offload];
  const needed = `It needs ${bytes(memory)} of GPU memory. ${turns} Browsers do not tell how much memory a GPU has.`;
  const limits = obstacles.length === 0 ? ["The limits of this GPU allow it."] : obstacles.map(sentence);
  return [fetched, needed, ...limits];
}

/** A message as a sentence: it starts with a capital and ends with a full stop. */
export function sentence(message: string): string {
  // A file's name at the start stays unchanged.
  const first = /^[^\s/:.]+\s/.test(message) ? message.charAt(0).toUpperCase() : message.charAt(0);
  return `${first}${message.slice(1).replace(/([^.!?])$/, "$1.")}`;
}

/** An error and its remedy. */
export function explained(error: ZImageError): string[] {
  const words = sentence(error.message);
  switch (error.reason) {
    case "lost":
      return [words, "The GPU was reset, or the browser took it away: restart, and the model comes from this browser's storage."];
    case "memory":
      return [
        "The GPU has no room for this.",
        "What takes less: a smaller width and height, no guidance, a smaller model, or closing other tabs and programs that use the GPU.",
        words,
      ];
    case "part":
      return [
        words,
        "A model consists of a transformer, a text encoder (Qwen3-4B) with its tokenizer, and a VAE: pick all of their files at" +
          " once, or write all of their addresses, or that of a folder with the other parts, one a line.",
      ];
    default:
      return [words];
  }
}

export function bytes(count: number): string {
  return count < 1e9 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e9).toFixed(2)} GB`;
}

export function duration(ms: number): string {
  const seconds = Math.max(1, Math.round(ms / 1000));
  return seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
}

/** A file name made from the prompt. */
export function fileName(prompt: string, seed: number): string {
  const words = prompt.normalize("NFC").toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? ["picture"];
  return `${words.join("-").slice(0, 60)}-${seed}.png`;
}
