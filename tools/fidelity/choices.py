"""Measures what single choices of FP8 operands cost: which layers keep bf16, and which scales.

    python tools/fidelity/choices.py --work /tmp/fidelity [--outliers]
    python tools/fidelity/choices.py --work /tmp/fidelity --small

Prints the distance of the transformer's velocities to diffusers in float32, for diffusers with one
choice at a time. README.md in this folder has the details.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import pad

import stages
from reference import Comparison, distance, tell
from rowwise import LARGEST, LEAST, RowWise, Scales, layers, row_scales
from stages import Tensors, in_float32

#: Columns of a row that share a scale in the outputs of attention and SwiGLU.
BLOCK = 128
#: The linears that read these outputs.
GATED = ("attention.to_out.0", "feed_forward.w2")


def block_scales(values: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of each 128 columns of a row / 448."""
    width = values.shape[-1]
    blocks = pad(values.float(), (0, -width % BLOCK)).unflatten(-1, (-1, BLOCK))
    scales = blocks.abs().amax(dim=-1, keepdim=True).clamp(min=LEAST) / LARGEST
    return scales.expand_as(blocks).flatten(-2)[..., :width]


def power_scales(values: torch.Tensor) -> torch.Tensor:
    """The least powers of 2^8 that are no smaller than `block_scales`."""
    return torch.exp2(8 * torch.ceil(torch.log2(block_scales(values)) / 8))


def tensor_scale(values: torch.Tensor) -> torch.Tensor:
    """The largest magnitude / 448."""
    return values.abs().amax().clamp(min=LEAST).float() / LARGEST


def of_gated(scales: Scales) -> Callable[[str], Scales]:
    """These scales in front of the linears that read outputs of attention and SwiGLU."""
    return lambda name: scales if name.endswith(GATED) else row_scales


@dataclass(frozen=True)
class Choice:
    """The linears that keep bf16, and the scales of the activations that another one reads."""

    keeps: Callable[[str], bool] = lambda name: False
    scales: Callable[[str], Scales] = lambda name: row_scales


def ends(*suffixes: str) -> Choice:
    """Linears whose names end in one of these keep bf16."""
    return Choice(keeps=lambda name: name.endswith(suffixes))


def starts(*prefixes: str) -> Choice:
    """Linears whose names start with one of these keep bf16."""
    return Choice(keeps=lambda name: name.startswith(prefixes))


def choices(count: int) -> dict[str, Choice]:
    """The choices for a transformer of `count` layers, by name."""
    return {
        "FP8 everywhere, a scale a row": Choice(),
        "context refiner in BF16": starts("context_refiner."),
        "noise refiner in BF16": starts("noise_refiner."),
        "first two layers in BF16": starts("layers.0.", "layers.1."),
        "last two layers in BF16": starts(f"layers.{count - 2}.", f"layers.{count - 1}."),
        "q, k, v in BF16": ends("to_q", "to_k", "to_v"),
        "attention output in BF16": ends("to_out.0"),
        "w1, w3 in BF16": ends("w1", "w3"),
        "w2 in BF16": ends("w2"),
        "outputs of attention and SwiGLU: a scale for 128 columns": Choice(scales=of_gated(block_scales)),
        "the same in powers of 2^8": Choice(scales=of_gated(power_scales)),
        "activations: a scale a tensor": Choice(scales=lambda name: tensor_scale),
    }


def velocities(comparison: Comparison, choice: Choice) -> Tensors:
    """The velocities of the bf16 transformer with this choice, which is undone afterwards."""
    transformer = comparison.pipe.transformer
    plain = {name: transformer.get_submodule(name) for name in layers(transformer) if not choice.keeps(name)}
    for name, linear in plain.items():
        transformer.set_submodule(name, RowWise(linear, choice.scales(name)))
    # E4M3 times a scale has rounding errors of 2^-11 in TF32, a hundredth of its own.
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return stages.velocities(transformer, comparison.cases, comparison.captions)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
        for name, linear in plain.items():
            transformer.set_submodule(name, linear)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the model (21 GB)")
    Comparison.add_flags(parser)
    comparison = Comparison.of(parser.parse_args(), {})
    transformer, cases, captions = comparison.pipe.transformer, comparison.cases, comparison.captions
    with in_float32(transformer):
        exact = stages.velocities(transformer, cases, captions)
    tell("float32 is done")
    forwards = [forward.name for forward in cases.forwards]
    print(f"| choice | {' | '.join(forwards)} | to the first row |")
    print("| --- |" + " ---: |" * (len(forwards) + 1))
    everywhere = None
    for name, choice in choices(len(transformer.layers)).items():
        found = velocities(comparison, choice)
        column = [distance(found[key], exact[key]) for key in exact]
        everywhere = everywhere or column
        ratio = sum(own / first for own, first in zip(column, everywhere)) / len(column)
        print(f"| {name} | {' | '.join(f'{value:.2e}' for value in column)} | {ratio:.3f} |", flush=True)
        tell(f"{name} is done")


if __name__ == "__main__":
    main()
