/** The page: from a prompt to a picture. */

import { EMBEDDED_MODEL, type ModelSource, type Picture, type Plan, ZImage, ZImageError } from "../zimage.js";
import { area, Clock } from "./clock.js";
import { byId, notify } from "./elements.js";
import { adopt, fill, fromFragment, keepSeed, type Link, NO_PROMPT, offer, prompted, requested, sizeAsked, toFragment } from "./form.js";
import { type Kept, remember } from "./visit.js";
import { amounts, bytes, deviceOf, duration, explained, fileName, sentence, withoutGpu } from "./words.js";

const form = byId("request", HTMLFormElement);
const prompt = byId("prompt", HTMLTextAreaElement);
const drawButton = byId("draw", HTMLButtonElement);
const cancelButton = byId("cancel", HTMLButtonElement);
const stage = byId("stage", HTMLElement);
const frame = byId("frame", HTMLDivElement);
const preview = byId("preview", HTMLCanvasElement);
const empty = byId("empty", HTMLParagraphElement);
const picture = byId("picture", HTMLImageElement);
const progress = byId("progress", HTMLDivElement);
const status = byId("status", HTMLParagraphElement);
const bar = byId("bar", HTMLProgressElement);
const modelUrl = byId("model-url", HTMLTextAreaElement);
const modelPickers = [["model-folder", "model-files"], ["model-file", "model-singles"]] as const;
const link = byId("link", HTMLButtonElement);

/** The user's choice of a model. A link carries its addresses, one a line; picked files have none. */
interface Choice {
  source: ModelSource;
  address: string | undefined;
}
/** Bytes that are fetched without a question. */
const ASK = 200e6;

const embedded: Choice = { source: EMBEDDED_MODEL, address: undefined };

let zimage: ZImage | undefined;
let chosen = embedded;
let backend: Link["backend"];
/** Cancels the current load or run. */
let current: AbortController | undefined;
/** The picture on the page. It returns if a run ends without a picture. */
let shown: Kept | undefined;
/** True if the user asked for a picture while the model was loading. */
let wanted = false;
const clock = new Clock();

type State = "idle" | "loading" | "ready" | "drawing" | "stopped";

function enter(state: State, words = ""): void {
  document.body.dataset.state = state;
  progress.hidden = state !== "loading" && state !== "drawing";
  drawButton.disabled = state === "drawing" || state === "idle" || state === "stopped";
  drawButton.textContent = state === "drawing" ? "Drawing…" : "Draw";
  status.textContent = words;
  frame.setAttribute("aria-busy", String(state === "drawing"));
}

/** Shows the loaded model and its device. */
function label(model: string, device: string): void {
  byId("model-name", HTMLElement).textContent = model;
  byId("device", HTMLParagraphElement).textContent = device;
}

/** Shows that no model is loaded, and the reason if it is known. */
function unlabel(model: string, device = ""): void {
  label(model, device);
  offer([]);
}

function show(part: number | undefined, words: string): void {
  if (current?.signal.aborted) return;
  if (part === undefined) bar.removeAttribute("value");
  else bar.value = part;
  if (status.textContent !== words) status.textContent = words;
}

/** Loads a model, after a question if it is large or more than this device can do. */
async function open(choice: Choice, agreed = choice === embedded): Promise<void> {
  current?.abort();
  zimage?.dispose();
  zimage = undefined;
  chosen = choice;
  const here = (current = new AbortController());
  notify([]);
  unlabel("loading…");
  enter("loading", "Loading the model…");
  show(undefined, "Loading the model…");
  const options = { model: choice.source, backend: backend ?? "auto", signal: here.signal } as const;
  try {
    if (!agreed) {
      const plan = await ZImage.plan({ ...options, ...sizeAsked() }).catch((error: Partial<ZImageError>) => {
        // The size in the form may be none of this model's.
        if (error.kind === "request") return ZImage.plan(options);
        throw error;
      });
      if (here !== current) return;
      if (plan.download > ASK || plan.obstacles.length > 0) return ask(choice, plan);
    }
    const loaded = await ZImage.load({
      ...options,
      onProgress: ({ done, of, fetched, note }) => {
        const from = fetched > 0 ? "" : " from this browser's storage";
        const words = of > 0 ? `Loading the model${from}: ${bytes(done)} of ${bytes(of)}` : "Loading the model…";
        show(of > 0 ? done / of : undefined, note ? `${words}. ${note}` : words);
      },
    });
    if (here !== current) return loaded.dispose();
    ready(loaded);
  } catch (error) {
    if (here === current) failed(error, () => open(choice, agreed));
  }
}

/** Says how much a model would take, and loads it if the user wants. */
function ask(choice: Choice, plan: Plan): void {
  enter("stopped");
  unlabel("none is loaded");
  notify(amounts(plan), [
    [plan.obstacles.length > 0 ? "Load it anyway" : "Load it", () => open(choice, true)],
    ["Use the small emoji model", () => open(embedded)],
  ]);
}

function ready(loaded: ZImage): void {
  zimage = loaded;
  const { info } = loaded;
  performance.mark("ready");
  adopt(info);
  label(info.model, "");
  deviceOf(info).then((words) => zimage === loaded && label(info.model, words));
  enter("ready", "Ready.");
  notify(info.warnings.map(sentence));
  if (wanted) draw();
}

async function draw(): Promise<void> {
  if (!prompted()) {
    wanted = false;
    status.textContent = NO_PROMPT;
    return;
  }
  if (!zimage) {
    wanted = true;
    status.textContent = "Drawing as soon as the model is here.";
    return;
  }
  wanted = false;
  const request = requested();
  const here = (current = new AbortController());
  notify([]);
  clock.begin();
  enter("drawing");
  show(undefined, "Reading the prompt…");
  prepareFrame(request);
  // On a narrow screen the picture forms below the form.
  frame.scrollIntoView({ block: "nearest", behavior: "smooth" });
  const ticking = setInterval(tick, 500);
  let part = "Reading the prompt…";
  function tick(): void {
    const left = clock.remaining();
    show(bar.position < 0 ? undefined : bar.value, left === undefined ? part : `${part} · about ${duration(left)} left`);
  }
  try {
    const drawn = await zimage.draw(request, {
      preview: true,
      signal: here.signal,
      onProgress: ({ stage, done, of, preview: image }) => {
        if (stage === "load") {
          part = `Loading the model: ${bytes(done)} of ${bytes(of)}`;
        } else if (stage === "text") {
          part = "Reading the prompt…";
        } else if (stage === "step") {
          clock.step(done, of, area(request));
          bar.value = done / (of + 1);
          if (done < of) part = `Step ${done + 1} of ${of}`;
        } else if (stage === "vae") {
          part = "Decoding the picture…";
        }
        if (image) paint(image);
        tick();
      },
    });
    clock.finish(drawn);
    finished(drawn);
  } catch (error) {
    restore();
    // If `current` has changed, the user has asked for another model.
    if (here === current) failed(error, () => open(chosen));
  } finally {
    clearInterval(ticking);
  }
}

function prepareFrame({ width = 1, height = 1 }: { width?: number; height?: number }): void {
  stage.style.setProperty("--ratio", String(width / height));
  empty.hidden = true;
  byId("result", HTMLDivElement).hidden = true;
  picture.hidden = true;
  preview.hidden = true;
}

/** Shows the previous picture again after a run without a picture. */
function restore(): void {
  preview.hidden = true;
  empty.hidden = false;
  if (shown) present(shown);
}

function paint(image: ImageData): void {
  Object.assign(preview, { width: image.width, height: image.height, hidden: false });
  preview.getContext("2d")?.putImageData(image, 0, 0);
}

function finished(drawn: Picture): void {
  const { prompt, negative, width, height, steps, guidance, seed } = drawn.info;
  const fields: Link = { prompt, width, height, steps, guidance, seed, negative };
  if (chosen.address) fields.model = chosen.address;
  if (backend) fields.backend = backend;
  const kept: Kept = { picture: drawn, url: URL.createObjectURL(drawn.png), fragment: toFragment(fields) };
  present(kept);
  remember(kept, (kept) => {
    if (document.body.dataset.state === "drawing") return;
    fill(kept.picture.info);
    present(kept);
  });
  enter("ready", `Drawn in ${duration(drawn.timings.total)}.`);
  notify(drawn.warnings.map(sentence));
}

function present(kept: Kept): void {
  shown = kept;
  const { picture: drawn, url, fragment } = kept;
  const { prompt, seed } = drawn.info;
  prepareFrame(drawn);
  picture.src = url;
  picture.alt = prompt;
  picture.hidden = false;
  byId("result", HTMLDivElement).hidden = false;
  Object.assign(byId("download", HTMLAnchorElement), { href: url, download: fileName(prompt, seed) });
  link.textContent = "Copy link";
  history.replaceState(null, "", fragment);
}

function failed(thrown: unknown, restart: () => void): void {
  const error = thrown instanceof ZImageError ? thrown : new ZImageError(String(thrown), "internal");
  wanted = false;
  if (!zimage) unlabel("none is loaded");
  const usable = zimage !== undefined && (error.kind === "cancelled" || error.kind === "request" || error.reason === "memory");
  if (error.kind === "cancelled") {
    enter(usable ? "ready" : "stopped", "Cancelled.");
    notify([], []);
    if (!usable) notify(["Loading was cancelled; what came so far is kept."], [["Load the model", restart]]);
    return;
  }
  enter(usable ? "ready" : "stopped");
  const again = zimage ? "Restart" : "Try again";
  const actions: [string, () => void][] = usable ? [] : [[again, restart]];
  if (!zimage && chosen !== embedded) actions.push(["Use the small emoji model", () => open(embedded)]);
  if (error.kind === "device" && backend !== "cpu") actions.push(["Draw on the processor instead", () => onProcessor(chosen)]);
  notify(explained(error), actions);
}

function onProcessor(choice: Choice): void {
  backend = "cpu";
  open(choice);
}

/** Follows a link: fills the form, loads what it names, and draws. */
async function follow(fields: Link): Promise<void> {
  fill(fields);
  if (fields.seed !== undefined) keepSeed();
  if (fields.backend) backend = fields.backend;
  wanted = Boolean(fields.prompt?.trim());
  const address = fields.model;
  const choice = address ? { source: address.split("\n"), address } : embedded;
  const lacking = backend === "cpu" ? [] : await withoutGpu();
  if (lacking.length > 0) {
    enter("stopped");
    unlabel("none is loaded", "No GPU");
    const offer = "Without it the processor can draw: the small model takes a minute or so.";
    return notify([...lacking, offer], [["Draw on the processor", () => onProcessor(choice)]]);
  }
  // A link must not make the browser fetch gigabytes from a site that the user has not seen.
  if (address?.split("\n").some((line) => new URL(line).origin !== location.origin)) {
    enter("stopped");
    modelUrl.value = address;
    const ask = `This link draws with the model at ${address.replaceAll("\n", ", ")}.`;
    return notify([ask], [["Load that model", () => open(choice)], ["Use the small emoji model", () => open(embedded)]]);
  }
  if (zimage && chosen.address === choice.address) return wanted ? draw() : undefined;
  return open(choice);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!drawButton.disabled) draw();
});
prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
cancelButton.addEventListener("click", () => {
  current?.abort();
  status.textContent = "Stopping…";
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !progress.hidden) cancelButton.click();
});
addEventListener("hashchange", () => follow(fromFragment(location.hash)));

link.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    link.textContent = "Link copied";
  } catch {
    link.textContent = "The link is in the address bar";
  }
});

function choose(choice: Choice): void {
  wanted = false;
  open(choice);
}
byId("model-load", HTMLButtonElement).addEventListener("click", () => {
  const lines = modelUrl.value.split("\n").map((line) => line.trim()).filter(Boolean);
  const wrong = lines.find((line) => !URL.canParse(line));
  modelUrl.setCustomValidity(wrong === undefined ? "" : `${wrong} is no address; expected https://…`);
  if (lines.length === 0 || !modelUrl.reportValidity()) return modelUrl.focus();
  // Asks the browser not to evict a large model.
  navigator.storage?.persist?.();
  choose({ source: lines, address: lines.join("\n") });
});
modelUrl.addEventListener("input", () => modelUrl.setCustomValidity(""));
byId("model-embedded", HTMLButtonElement).addEventListener("click", () => choose(embedded));
for (const [button, input] of modelPickers) {
  const picker = byId(input, HTMLInputElement);
  byId(button, HTMLButtonElement).addEventListener("click", () => picker.click());
  picker.addEventListener("change", () => {
    const files = [...(picker.files ?? [])];
    picker.value = "";
    if (files.length > 0) choose({ source: files, address: undefined });
  });
}

enter("idle");
follow(fromFragment(location.hash));
