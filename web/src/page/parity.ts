/** The conformance page: compares WebGPU in this browser with the `cpu` backend. */

import { type ParityReport, type ParityRow, parity, ZImageError } from "../zimage.js";
import { byId, notify, text } from "./elements.js";
import { explained, withoutGpu } from "./words.js";

const run = byId("run", HTMLButtonElement);
const cancel = byId("cancel", HTMLButtonElement);
const copy = byId("copy", HTMLButtonElement);
const bar = byId("bar", HTMLProgressElement);
const status = byId("status", HTMLParagraphElement);
const table = byId("rows", HTMLTableElement);
const failures = byId("failures", HTMLUListElement);

let current: AbortController | undefined;
let report: ParityReport | undefined;

function enter(state: "running" | "passed" | "failed" | "stopped", words: string): void {
  document.body.dataset.state = state;
  const running = state === "running";
  cancel.hidden = bar.hidden = !running;
  run.disabled = running;
  run.textContent = "Run again";
  copy.hidden = report === undefined || running;
  status.textContent = words;
}

async function compare(): Promise<void> {
  notify([]);
  const body = table.tBodies[0]!;
  body.replaceChildren();
  failures.replaceChildren();
  failures.hidden = true;
  report = undefined;
  const fields = new URLSearchParams(location.hash.slice(1));
  const lacking = await withoutGpu();
  if (lacking.length > 0) {
    enter("stopped", "");
    return notify([...lacking, "Without it there is nothing to compare."]);
  }
  current = new AbortController();
  table.hidden = false;
  let cases = 0;
  enter("running", "Comparing…");
  try {
    report = await parity({
      filter: fields.get("filter") ?? "",
      seed: Number(fields.get("seed") ?? 0),
      backend: fields.get("backend") ?? "webgpu",
      signal: current.signal,
      onRow: (row) => {
        cases += row.cases;
        body.append(line(row));
        status.textContent = `Comparing… ${cases} cases so far.`;
      },
    });
    body.replaceChildren(...report.rows.map(line));
    finish(report);
  } catch (thrown) {
    const error = thrown instanceof ZImageError ? thrown : new ZImageError(String(thrown), "internal");
    enter("stopped", error.kind === "cancelled" ? "Cancelled." : "");
    if (error.kind !== "cancelled") notify(explained(error));
  }
}

function finish({ rows, candidate, reference, activations, operands, seed }: ParityReport): void {
  const failed = rows.flatMap((row) => row.failures);
  const cases = rows.reduce((sum, row) => sum + row.cases, 0);
  const details = `${candidate} against ${reference}; ${activations} activations, ${operands} operands, seed ${seed}`;
  byId("device", HTMLParagraphElement).textContent = details;
  failures.replaceChildren(
    ...failed.map(({ case: name, error, tolerance, reason, problem }) =>
      text("li", `${name}: ${problem ?? `the error ${exponent(error)} is more than ${exponent(tolerance)} (${reason})`}`)),
  );
  failures.hidden = failed.length === 0;
  const right = failed.length === 0 && cases > 0 && rows.every((row) => row.passed);
  if (right) enter("passed", `${cases} cases, all pass: this browser computes right.`);
  else enter("failed", cases === 0 ? "No case ran." : `${failed.length} of ${cases} cases failed.`);
}

function line({ op, cases, passed, worst }: ParityRow): HTMLTableRowElement {
  const row = document.createElement("tr");
  const name = Object.assign(text("th", op), { scope: "row" });
  const numbers = [String(cases), exponent(worst.error), exponent(worst.tolerance)]
    .map((value) => Object.assign(text("td", value), { className: "number" }));
  const verdict = Object.assign(text("td", passed ? "pass" : "FAIL"), { className: passed ? "pass" : "fail" });
  const its = Object.assign(text("td", worst.case), { title: worst.reason });
  row.append(name, ...numbers, its, verdict);
  return row;
}

function exponent(value: number | null): string {
  return value === null ? "∞" : value === 0 ? "0" : value.toExponential(1);
}

run.addEventListener("click", compare);
cancel.addEventListener("click", () => current?.abort());
copy.addEventListener("click", async () => {
  const details = { browser: navigator.userAgent, ...report };
  await navigator.clipboard.writeText(JSON.stringify(details, null, 2)).then(
    () => (copy.textContent = "Copied"),
    () => (copy.textContent = "The browser refused"),
  );
});
