/** The request as it stands in the form, and as a link carries it: all of it in the URL's fragment. */

import type { Info, Request } from "../zimage.js";
import { byId } from "./elements.js";

/** A link: what to draw, and with which model and backend when not the page's own choice. */
export interface Link extends Partial<Request> {
  model?: string;
  backend?: "cpu" | "webgpu";
}

const NUMBERS = ["width", "height", "steps", "guidance", "seed"] as const;
const TEXTS = ["prompt", "negative"] as const;

const numbers = Object.fromEntries(NUMBERS.map((name) => [name, byId(name, HTMLInputElement)])) as
  Record<(typeof NUMBERS)[number], HTMLInputElement>;
const texts = Object.fromEntries(TEXTS.map((name) => [name, byId(name, HTMLTextAreaElement)])) as
  Record<(typeof TEXTS)[number], HTMLTextAreaElement>;
const vary = byId("vary", HTMLInputElement);
const more = byId("more", HTMLDetailsElement);

// A refused value has to be seen.
more.addEventListener("invalid", () => (more.open = true), true);

/** What the form asks for now. Draws a new seed first when the user wants one for every picture. */
export function requested(): Request {
  if (vary.checked || numbers.seed.value === "") numbers.seed.value = String(freshSeed());
  const request: Request = { prompt: texts.prompt.value.trim() };
  if (texts.negative.value.trim()) request.negative = texts.negative.value.trim();
  for (const name of NUMBERS) if (numbers[name].value !== "") request[name] = numbers[name].valueAsNumber;
  return request;
}

/** Puts a request into the form; one with a seed is there to be drawn again, so the seed stays. */
export function fill(request: Partial<Request>): void {
  for (const name of TEXTS) texts[name].value = request[name] ?? "";
  for (const name of NUMBERS) if (request[name] !== undefined) numbers[name].value = String(request[name]);
  if (request.seed !== undefined) vary.checked = false;
  if (request.negative || request.guidance) more.open = true;
}

/** Fills what was left empty with a model's defaults, and takes its limits. */
export function adopt({ defaults, limits }: Info, replace: boolean): void {
  for (const name of ["width", "height", "steps", "guidance"] as const) {
    if (replace || numbers[name].value === "") numbers[name].value = String(defaults[name]);
  }
  for (const [side, most] of [[numbers.width, limits.maxWidth], [numbers.height, limits.maxHeight]] as const) {
    Object.assign(side, { min: String(limits.multiple), step: String(limits.multiple), max: String(most) });
  }
}

/** torch reads the low 32 bits of a seed: more would be digits that change nothing. */
function freshSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]!;
}

export function toFragment(link: Link): string {
  const fields = Object.entries(link).filter(([, value]) => value !== undefined && value !== "");
  return `#${new URLSearchParams(fields.map(([name, value]) => [name, String(value)]))}`;
}

/** Reads a fragment; what makes no sense in it is left out. */
export function fromFragment(fragment: string): Link {
  const fields = new URLSearchParams(fragment.replace(/^#/, ""));
  const link: Link = {};
  for (const name of TEXTS) if (fields.has(name)) link[name] = fields.get(name)!;
  for (const name of NUMBERS) {
    const value = Number(fields.get(name) || Number.NaN);
    if (Number.isFinite(value)) link[name] = value;
  }
  const [model, backend] = [fields.get("model"), fields.get("backend")];
  if (model && URL.canParse(model, location.href)) link.model = new URL(model, location.href).href;
  if (backend === "cpu" || backend === "webgpu") link.backend = backend;
  return link;
}
