"""Measures what each storage format of the weights costs, in `zimage` and in diffusers.

    python tools/fidelity/formats.py --engine target/release/zimage --work /tmp/fidelity [--outliers]
    python tools/fidelity/formats.py --engine target/release/zimage --work /tmp/fidelity --small --backend cpu

Diffusers computes in bf16 with the values that other programs read from the same weights. Prints a
row of a Markdown table for each format to standard output as soon as it is measured, and the
distances of single stages to standard error. README.md in this folder has the details.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from engine import Engine
from reference import Comparison, distance, tell
from similarity import similarity
from stages import Tensors
from storage import FORMATS, Model

#: The factor by which a distance of `zimage` to float32 may be larger than that of diffusers with
#: quantised weights; 1 in BF16.
FARTHER = 1.1
#: The distance between the two programs may be this many times that in BF16,
APART = 1.5
#: plus this share of the format's own error, which the rounding of its values changes a little.
SHARE = 0.05


@dataclass(frozen=True)
class Measured:
    """The results of both programs with weights in one format."""

    ours: Tensors
    diffusers: Tensors


def faults(kind: str, now: Measured, bf16: Measured, exact: Tensors) -> list[str]:
    """Prints the distances of each stage. Returns a sentence for each stage in which `zimage` is
    further from float32 than diffusers, or further from diffusers than rounding explains."""
    found = []
    limit = 1 if kind == "bf16" else FARTHER
    for name, reference in exact.items():
        ours, theirs = distance(now.ours[name], reference), distance(now.diffusers[name], reference)
        apart, before = (distance(m.ours[name], m.diffusers[name]) for m in (now, bf16))
        tell(f"{kind:5} {name:36} zimage {ours:.2e}  diffusers {theirs:.2e}  ratio {ours / theirs:.3f}  apart {apart:.2e}")
        if not ours <= limit * theirs:
            found.append(f"{kind} {name}: zimage is {ours / theirs:.3f} times as far from float32 as diffusers")
        if not apart <= APART * before + SHARE * theirs:
            found.append(f"{kind} {name}: zimage and diffusers are {apart:.2e} apart, in BF16 {before:.2e}")
    return found


def row(kind: str, now: Measured, bf16: Measured, exact: Tensors) -> str:
    """A row of the table."""
    cells = [kind]
    for stage in ("text.", "transformer."):
        names = [name for name in exact if name.startswith(stage)]
        # Outlier channels hide the others.
        names = [name for name in names if f"{name}, no outliers" not in exact]
        for results in (now.ours, now.diffusers):
            cells.append(f"{sum(distance(results[name], exact[name]) for name in names) / len(names):.2e}")
    if kind == "bf16":
        return f"| {' | '.join(cells)} | | | | |"
    pairs = [(now.ours["picture"], bf16.ours["picture"]), (now.diffusers["picture"], bf16.diffusers["picture"])]
    ours, theirs = (similarity(*pair) for pair in pairs)
    cells += [f"{ours[0]:.1f}", f"{theirs[0]:.1f}", f"{ours[1]:.3f}", f"{theirs[1]:.3f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Engine.add_flags(parser)
    Comparison.add_flags(parser)
    parser.add_argument("--formats", default=",".join(FORMATS), help="names with commas between them (default: all)")
    options = parser.parse_args()
    asked = options.formats.split(",")
    if unknown := [kind for kind in asked if kind not in FORMATS]:
        parser.error(f"unknown format {', '.join(unknown)}: use {', '.join(FORMATS)}")
    engine, comparison = Engine.of(options), Comparison.of(options)
    exact = comparison.without_outliers(comparison.exact())
    # The storage of the autoencoder never changes.
    exact = {name: tensor for name, tensor in exact.items() if not name.startswith("vae.")}
    model = Model.of(comparison.folder, comparison.pipe)
    print("| weights | text features | by diffusers | velocity | by diffusers | PSNR | by diffusers | SSIM | by diffusers |")
    print("| --- |" + " --- |" * 8, flush=True)
    bf16, found = None, []
    # The others are compared with BF16.
    for kind in ("bf16", *(kind for kind in FORMATS if kind in asked and kind != "bf16")):
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            flags = model.store(kind, engine, Path(folder))
            tell(f"{kind}: the weights are there")
            ours = engine.results(flags, comparison.engine_inputs(), comparison.cases.pictures)
        tell(f"{kind}: zimage is done")
        now = Measured(*map(comparison.without_outliers, (ours, comparison.rounded())))
        bf16 = bf16 or now
        found += faults(kind, now, bf16, exact)
        print(row(kind, now, bf16, exact), flush=True)
    if found:
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()
