"""The model of a comparison, its inputs, and the results of diffusers in float32."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ZImagePipeline

import stages
from model import open_model, outlier_channels
from stages import FULL, PICTURE, SMALL, Cases, Largest, Sampling, Tensors, in_float32

START = time.monotonic()


def tell(line: str) -> None:
    """Prints progress to standard error."""
    print(f"{time.monotonic() - START:6.1f} s  {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Comparison:
    """A model in `folder`, the same in `pipe` in bf16, and the inputs of every stage. The captions
    are float32 text features, rounded to bf16."""

    folder: Path
    pipe: ZImagePipeline
    outliers: bool
    cases: Cases
    captions: Tensors

    @staticmethod
    def add_flags(parser: ArgumentParser) -> None:
        parser.add_argument("--device", help="torch's device (default: cuda, with --small cpu)")
        parser.add_argument("--outliers", action="store_true", help="channels and hidden values in the thousands")
        parser.add_argument("--small", action="store_true", help="a tiny model, to try this script without a GPU")

    @classmethod
    def of(cls, options: Namespace, samplings: dict[str, Sampling] = PICTURE) -> Comparison:
        """Opens the model, or creates it. `samplings` are of the pictures, by name."""
        folder = options.work / f"{'small' if options.small else 'full'}{'-outliers' if options.outliers else ''}"
        device = options.device or ("cpu" if options.small else "cuda")
        pipe = open_model(folder, options.small, options.outliers, device)
        tell(f"{folder} is there")
        cases = stages.cases(pipe, SMALL if options.small else FULL, samplings)
        with in_float32(pipe.text_encoder):
            captions = stages.features(pipe.text_encoder, cases.ids)
        captions = {name: captions[f"text.{name}.features"].bfloat16() for name in cases.ids}
        return cls(folder, pipe, options.outliers, cases, captions)

    def engine_inputs(self) -> Tensors:
        """The inputs of `zimage stages`. The GPU's memory is left to it."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return stages.engine_inputs(self.cases, self.captions)

    def rounded(self) -> Tensors:
        """The results of diffusers in bf16."""
        return self.stages() | self.pictures()

    def stages(self) -> Tensors:
        """The results of the stages of diffusers in the dtype of its networks."""
        return stages.results(self.pipe, self.cases, self.captions)

    def pictures(self) -> Tensors:
        """The pictures of diffusers in the dtype of its networks."""
        return {name: stages.picture(self.pipe, case) for name, case in self.cases.pictures.items()}

    def exact(self) -> Tensors:
        """The results of diffusers in float32; reports the largest values."""
        pipe = self.pipe
        parts = {"text encoder": pipe.text_encoder, "transformer": pipe.transformer, "autoencoder": pipe.vae}
        with in_float32(*parts.values()):
            largest = {part: Largest(network) for part, network in parts.items()}
            with largest["text encoder"], largest["transformer"], largest["autoencoder"]:
                exact = self.stages()
            tell("the stages of diffusers in float32 are done")
            exact |= self.pictures()
        tell("diffusers in float32 is done")
        for part, seen in largest.items():
            tell(f"largest value in the {part}: {seen.value():.0f}")
            if self.outliers and not seen.value() >= 1000:
                raise SystemExit(f"the {part} has no values in the thousands: the outliers do not reach it")
        return exact

    def without_outliers(self, tensors: Tensors) -> Tensors:
        """Adds the text features without the outlier channels, whose size hides the others, if the
        model has such channels."""
        rest = {}
        for name, tensor in tensors.items():
            if self.outliers and name.startswith("text."):
                kept = torch.ones(tensor.shape[-1], dtype=torch.bool)
                kept[outlier_channels(tensor.shape[-1])] = False
                rest[f"{name}, no outliers"] = tensor[:, kept]
        return tensors | rest


def distance(out: torch.Tensor, reference: torch.Tensor) -> float:
    """‖out − reference‖ / ‖reference‖."""
    if out.shape != reference.shape:
        raise SystemExit(f"the engine returned {list(out.shape)} where diffusers has {list(reference.shape)}")
    return float((out.double() - reference.double()).norm() / reference.double().norm())
