/** The request in the form, and in a link: the URL's fragment carries all of it. */

import type { Info, Request } from "../zimage.js";
import { button, byId, text } from "./elements.js";

/**
 * A link: a request, and a model and backend if they differ from the page's own choice. The model
 * is its addresses, one a line.
 */
export interface Link extends Partial<Request> {
  model?: string;
  backend?: "cpu" | "webgpu";
}

/** Fields with defaults in a model. */
const DEFAULTED = ["width", "height", "steps", "guidance"] as const;
const NUMBERS = [...DEFAULTED, "seed"] as const;
const TEXTS = ["prompt", "negative"] as const;

const numbers = Object.fromEntries(NUMBERS.map((name) => [name, byId(name, HTMLInputElement)])) as
  Record<(typeof NUMBERS)[number], HTMLInputElement>;
const texts = Object.fromEntries(TEXTS.map((name) => [name, byId(name, HTMLTextAreaElement)])) as
  Record<(typeof TEXTS)[number], HTMLTextAreaElement>;
const vary = byId("vary", HTMLInputElement);
const more = byId("more", HTMLDetailsElement);
const sizes = byId("sizes", HTMLDivElement);
const sizeHint = byId("size-hint", HTMLParagraphElement);

/** Fields with a value from the user or a link. Another model's defaults do not replace them. */
const given = new Set<string>();
/** More trained sizes than this are not repeated in a warning: the buttons above it show them. */
const MOST_NAMED = 4;
/** The widths and heights that the model was trained for. */
let trained: Info["defaults"]["sizes"] = [];
/** The model's guidance, once a model is loaded. */
let usual: number | undefined;

for (const name of DEFAULTED) {
  numbers[name].addEventListener("input", () => {
    if (numbers[name].value === "") given.delete(name);
    else given.add(name);
    advise();
  });
}
texts.prompt.addEventListener("input", () => texts.prompt.setCustomValidity(""));

// The user must see a refused value.
more.addEventListener("invalid", () => (more.open = true), true);

/** The form's current request. Draws a new seed first if the user wants one for every picture. */
export function requested(): Request {
  if (vary.checked || numbers.seed.value === "") numbers.seed.value = String(freshSeed());
  const request: Request = { prompt: texts.prompt.value.trim() };
  if (texts.negative.value.trim()) request.negative = texts.negative.value.trim();
  for (const name of NUMBERS) if (numbers[name].value !== "") request[name] = numbers[name].valueAsNumber;
  return request;
}

/** The size in the form, where the user or a link gave one. */
export function sizeAsked(): { width?: number; height?: number } {
  const sides = (["width", "height"] as const).filter((name) => given.has(name) && numbers[name].value !== "");
  return Object.fromEntries(sides.map((name) => [name, numbers[name].valueAsNumber]));
}

/** True if there is a prompt; otherwise the form asks for one. */
export function prompted(): boolean {
  const there = texts.prompt.value.trim() !== "";
  texts.prompt.setCustomValidity(there ? "" : NO_PROMPT);
  return there || texts.prompt.reportValidity();
}

/** The message that asks for a prompt. */
export const NO_PROMPT = "Type what you would like to see.";

/** Puts a request into the form. */
export function fill(request: Partial<Request>): void {
  for (const name of TEXTS) texts[name].value = request[name] ?? "";
  texts.prompt.setCustomValidity("");
  setNumbers(request);
  reveal();
}

/** Opens the further fields if they hold a negative prompt or a guidance that is not the model's. */
function reveal(): void {
  const guided = usual !== undefined && numbers.guidance.value !== "" && numbers.guidance.valueAsNumber !== usual;
  if (texts.negative.value.trim() || guided) more.open = true;
}

/** Makes the next picture use the seed that the form shows. */
export function keepSeed(): void {
  vary.checked = false;
}

/** Applies a model's defaults to fields without a given value, and its sizes and limits. */
export function adopt({ defaults, limits }: Info): void {
  for (const name of DEFAULTED) if (!given.has(name)) numbers[name].value = String(defaults[name]);
  for (const [side, most] of [[numbers.width, limits.maxWidth], [numbers.height, limits.maxHeight]] as const) {
    Object.assign(side, { min: String(limits.multiple), step: String(limits.multiple), max: String(most) });
  }
  usual = defaults.guidance;
  reveal();
  offer(defaults.sizes);
}

/** Offers the sizes that the model was trained for; none while no model is loaded. */
export function offer(good: Info["defaults"]["sizes"]): void {
  trained = good;
  const offers = trained.map(([width, height]) => button(`${width} × ${height}`, () => setNumbers({ width, height })));
  sizes.replaceChildren(text("span", "Trained for"), ...offers);
  sizes.hidden = offers.length === 0;
  advise();
}

function setNumbers(request: Partial<Request>): void {
  for (const name of NUMBERS) {
    if (request[name] === undefined) continue;
    numbers[name].value = String(request[name]);
    given.add(name);
  }
  advise();
}

/**
 * Marks the requested size among the trained sizes, or warns that the model was not trained for it.
 */
function advise(): void {
  const [width, height] = [numbers.width.valueAsNumber, numbers.height.valueAsNumber];
  const at = trained.findIndex((size) => size[0] === width && size[1] === height);
  [...sizes.querySelectorAll("button")].forEach((button, i) => (button.ariaPressed = String(i === at)));
  sizeHint.hidden = trained.length === 0 || at >= 0;
  const words = trained.length > MOST_NAMED ? "the sizes above" : trained.map((size) => size.join(" × ")).join(", ");
  const advice = sizeHint.hidden ? "" : `This model was trained for ${words} only. Pictures of other sizes may come out broken.`;
  if (sizeHint.textContent !== advice) sizeHint.textContent = advice;
}

/** A new seed of 32 bits: torch ignores the higher bits. */
function freshSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]!;
}

export function toFragment(link: Link): string {
  const fields = Object.entries(link).filter(([, value]) => value !== undefined && value !== "");
  return `#${new URLSearchParams(fields.map(([name, value]) => [name, String(value)]))}`;
}

/** Reads a fragment, and skips fields that it cannot parse. */
export function fromFragment(fragment: string): Link {
  const fields = new URLSearchParams(fragment.replace(/^#/, ""));
  const link: Link = {};
  for (const name of TEXTS) if (fields.has(name)) link[name] = fields.get(name)!;
  for (const name of NUMBERS) {
    const value = Number(fields.get(name) || Number.NaN);
    if (Number.isFinite(value)) link[name] = value;
  }
  const [model, backend] = [fields.get("model"), fields.get("backend")];
  const lines = model?.split("\n") ?? [];
  if (model && lines.every((line) => URL.canParse(line, location.href))) {
    link.model = lines.map((line) => new URL(line, location.href).href).join("\n");
  }
  if (backend === "cpu" || backend === "webgpu") link.backend = backend;
  return link;
}
