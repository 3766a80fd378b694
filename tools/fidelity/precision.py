"""Measures what FP8 operands cost, in `zimage` and in diffusers with torchao's row-wise FP8.

    python tools/fidelity/precision.py --engine target/release/zimage --work /tmp/fidelity [--outliers]
    python tools/fidelity/precision.py --engine target/release/zimage --work /tmp/fidelity --small --backend cpu

Prints the distance to diffusers in float32 of each stage and picture, and how similar the pictures
are to those without FP8. Exits with 1 if any distance of ours is larger than that of diffusers in
FP8. Rows of `--fp8-attention` decide nothing: diffusers has no counterpart. README.md in this folder
has the details.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

import rowwise
from engine import Engine
from reference import Comparison, distance, tell
from similarity import similarity
from stages import Sampling, Tensors

#: FP8 in the transformer, in the text encoder too, and in the transformer with its attention.
FP8, FP8_ALL, FP8_ATTENTION = "fp8", "fp8-all", "fp8 attention"
#: The flags of `zimage` for each, and without FP8.
FLAGS = {
    "auto": ["--precision", "auto"],
    FP8: ["--precision", "fp8"],
    FP8_ALL: ["--precision", "fp8-all"],
    FP8_ATTENTION: ["--precision", "fp8", "--fp8-attention"],
}
#: Pictures of up to as many steps are without guidance, as those of Z-Image-Turbo.
TURBO_STEPS = 8
#: The guidance of the others, as those of Z-Image.
GUIDANCE = 4.0


@dataclass(frozen=True)
class Results:
    """The results of one program, without FP8 and with it, by the rows of the table."""

    bf16: Tensors
    fp8: Tensors


def row_of(name: str, precision: str) -> str:
    """The name of the row of a picture or a velocity."""
    return f"{name}, {precision}"


def rows(stages: Tensors, attention: Tensors, pictures: dict[str, Tensors]) -> Tensors:
    """The stages, those with FP8 attention, and the pictures of each precision."""
    velocities = {row_of(name, FP8_ATTENTION): of for name, of in attention.items() if name.startswith("transformer.")}
    drawn = {row_of(name, kind): tensor for kind, of in pictures.items() for name, tensor in of.items()}
    known = {name: tensor for name, tensor in stages.items() if name.startswith(("text.", "transformer."))}
    return known | velocities | drawn


def same(pictures: Tensors) -> dict[str, Tensors]:
    """Pictures without FP8 in the rows of every precision."""
    return {FP8: pictures, FP8_ALL: pictures, FP8_ATTENTION: pictures}


def of_zimage(engine: Engine, comparison: Comparison) -> Results:
    """The results of `zimage`. Captions are inputs of the stages, so fp8-all has the velocities of
    fp8."""
    inputs = {name: tensor for name, tensor in comparison.engine_inputs().items() if not name.startswith("vae.")}
    pictures = comparison.cases.pictures
    stages, drawn = {}, {}
    for precision, flags in FLAGS.items():
        flags = ["--model", comparison.folder, *flags]
        if precision != FP8:
            stages[precision] = engine.stages(flags, inputs)
        drawn[precision] = engine.pictures(flags, pictures)
        tell(f"zimage with {' '.join(FLAGS[precision])} is done")
    own = stages["auto"]
    return Results(
        rows(own, own, same(drawn.pop("auto"))),
        rows(stages[FP8_ALL], stages[FP8_ATTENTION], drawn),
    )


def of_diffusers(comparison: Comparison) -> Results:
    """The results of diffusers. Its networks stay in FP8; its attention is in BF16 in every row."""
    pipe = comparison.pipe
    own = comparison.stages()
    bf16 = rows(own, own, same(comparison.pictures()))
    tell("diffusers in bf16 is done")
    rowwise.quantise(pipe.transformer)
    pictures = comparison.pictures()
    drawn = {FP8: pictures, FP8_ATTENTION: pictures}
    rowwise.quantise(pipe.text_encoder)
    drawn[FP8_ALL] = comparison.pictures()
    quantised = comparison.stages()
    fp8 = rows(quantised, quantised, drawn)
    tell("diffusers in FP8 is done")
    return Results(bf16, fp8)


def distances(ours: Results, theirs: Results, exact: Tensors, own: str) -> list[str]:
    """Prints the table of distances. Returns a sentence for each row in which `zimage` is further
    away, except those with FP8 attention, which diffusers lacks."""
    print(f"| stage | zimage {own} | zimage FP8 | diffusers BF16 | diffusers FP8 | FP8, zimage / diffusers |")
    print("| --- |" + " ---: |" * 5)
    found = []
    for name, reference in exact.items():
        columns = [distance(column[name], reference) for of in (ours, theirs) for column in (of.bf16, of.fp8)]
        _, near, _, far = columns
        ratio = near / far if far > 0 else float("nan")
        print(f"| {name} | {' | '.join(f'{value:.2e}' for value in columns)} | {ratio:.3f} |")
        if not near <= far and not name.endswith(FP8_ATTENTION):  # true for NaN
            found.append(f"{name}: zimage in FP8 is {ratio:.3f} times as far from float32 as diffusers in FP8")
    return found


def similarities(ours: Results, theirs: Results, names: list[str], own: str) -> None:
    """Prints the table of pictures next to those of the same program without FP8."""
    print(f"\n| picture | zimage PSNR to {own} | diffusers PSNR to BF16 | zimage SSIM | diffusers SSIM |")
    print("| --- |" + " ---: |" * 4)
    for name in names:
        (psnr, ssim), (psnr_theirs, ssim_theirs) = (similarity(of.fp8[name], of.bf16[name]) for of in (ours, theirs))
        print(f"| {name} | {psnr:.1f} | {psnr_theirs:.1f} | {ssim:.3f} | {ssim_theirs:.3f} |")


def samplings(steps: str) -> dict[str, Sampling]:
    """The pictures of these numbers of steps, with commas between them."""
    counts = [int(count) for count in steps.split(",") if count]
    return {f"picture-{n}": Sampling(n, 0.0 if n <= TURBO_STEPS else GUIDANCE) for n in counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Engine.add_flags(parser)
    Comparison.add_flags(parser)
    parser.add_argument(
        "--steps", type=samplings, default="8,50" if torch.cuda.is_available() else "8",
        help="steps of the pictures, with commas between them; no guidance up to 8 (default: 8,50, or 8 without a GPU)",
    )  # fmt: skip
    options = parser.parse_args()
    engine, comparison = Engine.of(options), Comparison.of(options, options.steps)
    tell(rowwise.agreement(comparison.pipe.transformer))
    ours = of_zimage(engine, comparison)
    exact = comparison.exact()
    exact = rows(exact, exact, same({name: exact[name] for name in comparison.cases.pictures}))
    theirs = of_diffusers(comparison)
    with_rest = comparison.without_outliers
    ours, theirs = (Results(with_rest(of.bf16), with_rest(of.fp8)) for of in (ours, theirs))
    exact = with_rest(exact)

    own = "BF16" if engine.backend.startswith("cuda") else "F32"
    print(f"FP8 in diffusers: {rowwise.program(comparison.pipe.transformer.device)}\n")
    found = distances(ours, theirs, exact, own)
    kinds = (FP8, FP8_ALL, FP8_ATTENTION)
    pictures = [row_of(name, kind) for name in comparison.cases.pictures for kind in kinds]
    similarities(ours, theirs, pictures, own)
    if found:
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()
