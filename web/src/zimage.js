/**
 * Z-Image in a web page. The engine runs in a worker of its own, so that the page never stalls; nothing is sent to a
 * server.
 *
 *     import { ZImage } from "./zimage.js";
 *
 *     const zimage = await ZImage.load({ onProgress: ({ done, of }) => console.log(`${done} of ${of} bytes`) });
 *     const picture = await zimage.draw({ prompt: "a red fox", seed: 7 });
 *     document.body.append(Object.assign(new Image(), { src: URL.createObjectURL(picture.png) }));
 */
import { pickedFolder } from "./picked.js";
import { ZImageError } from "./types.js";
export { ZImageError } from "./types.js";
/** The small model that is built into the folder of this module. */
export const EMBEDDED_MODEL = new URL("models/emoji/", import.meta.url).href;
/** A model that is loaded and ready to draw. */
export class ZImage {
    engine;
    info;
    constructor(engine, 
    /** The model and what runs it. */
    info) {
        this.engine = engine;
        this.info = info;
    }
    /** Loads a model. Its weights are kept in the browser's storage, so that the next time fetches nothing. */
    static async load(options = {}) {
        const { model = EMBEDDED_MODEL, backend = "auto", onProgress, signal } = options;
        const files = await located(model);
        const engine = new Engine();
        try {
            const order = { type: "load", model: files, backend };
            const info = await engine.run(order, signal, (report) => {
                if (report.type !== "loading")
                    return;
                const { done, of, fetched, note } = report;
                onProgress?.({ done, of, fetched, ...(note === undefined ? {} : { note }) });
            });
            return new ZImage(engine, info);
        }
        catch (error) {
            engine.end();
            throw error;
        }
    }
    /** Draws one picture. One at a time: a second call while the first runs is refused. */
    async draw(request, options = {}) {
        const { onProgress, preview = false, signal } = options;
        const drawn = (await this.engine.run({ type: "draw", request, preview }, signal, (report) => {
            if (report.type === "drawing")
                onProgress?.(progressOf(report.event));
        }));
        const { width, height, info, timings, warnings } = drawn;
        const png = new Blob([drawn.png], { type: "image/png" });
        return { width, height, info, timings, warnings, png, pixels: imageData(drawn) };
    }
    /** The size of the wasm heap in bytes. It never shrinks, so this is its peak. */
    get heapBytes() {
        return this.engine.heapBytes;
    }
    /** Frees the device's memory and the worker; a run under way ends as cancelled. */
    dispose() {
        this.engine.end();
    }
}
/** Compares every verb of `webgpu` with that of `cpu` in this browser, on a worker of its own. */
export async function parity(options = {}) {
    const { filter = "", seed = 0, onRow, signal } = options;
    const engine = new Engine();
    const cancel = () => engine.end();
    signal?.addEventListener("abort", cancel);
    try {
        const report = await engine.run({ type: "parity", filter, seed }, signal, (report) => {
            if (report.type === "row")
                onRow?.(report.row);
        });
        return report;
    }
    finally {
        signal?.removeEventListener("abort", cancel);
        engine.end();
    }
}
/** The worker, and the job that it is at. */
class Engine {
    heapBytes = 0;
    worker = new Worker(new URL("./worker/worker.js", import.meta.url), { type: "module" });
    job;
    constructor() {
        const worker = this.worker;
        worker.onmessage = ({ data }) => this.job?.settle(data);
        // A worker that could not start, or a fault of the engine that it cannot go on from.
        worker.onerror = (event) => this.end(new ZImageError(fatal(event.message), "internal"));
        worker.onmessageerror = () => this.end(new ZImageError(fatal("a message could not be read"), "internal"));
    }
    run(order, signal, each) {
        const { worker } = this;
        if (!worker)
            return Promise.reject(new ZImageError("this engine has ended; load the model again", "request"));
        if (this.job)
            return Promise.reject(new ZImageError("the engine is busy; wait for it, or cancel it", "request"));
        if (signal?.aborted)
            return Promise.reject(new ZImageError("cancelled", "cancelled"));
        return new Promise((resolve, reject) => {
            const cancel = () => worker.postMessage({ type: "cancel" });
            const over = () => {
                this.job = undefined;
                signal?.removeEventListener("abort", cancel);
            };
            const fail = (error) => {
                over();
                reject(error);
            };
            this.job = {
                settle: (report) => {
                    if (report.type === "failed")
                        return fail(new ZImageError(report.message, report.kind, report.reason));
                    if (report.type !== "done")
                        return each(report);
                    over();
                    this.heapBytes = report.heapBytes;
                    resolve(report.value);
                },
                reject: fail,
            };
            signal?.addEventListener("abort", cancel);
            worker.postMessage(order);
        });
    }
    end(error = new ZImageError("cancelled", "cancelled")) {
        this.worker?.terminate();
        this.worker = undefined;
        this.job?.reject(error);
    }
}
function fatal(message) {
    return `the engine stopped: ${message || "its script or its wasm could not be loaded"}; load the model again`;
}
async function located(model) {
    if (typeof model === "string" || model instanceof URL)
        return { url: new URL(model, document.baseURI).href };
    return pickedFolder(model);
}
function progressOf({ stage, done, of, preview }) {
    return { stage, done, of, ...(preview ? { preview: imageData(preview) } : {}) };
}
function imageData({ rgba, width, height }) {
    return new ImageData(new Uint8ClampedArray(rgba.buffer, rgba.byteOffset, rgba.byteLength), width, height);
}
