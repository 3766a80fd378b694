"""Compares `zimage` and diffusers in bf16 with diffusers in float32, stage by stage, at the real
size.

    python tools/fidelity/compare.py --engine target/release/zimage --work /tmp/fidelity [--outliers]
    python tools/fidelity/compare.py --engine target/release/zimage --work /tmp/fidelity --small --backend cpu

Each stage has the same inputs on all three; the final picture is drawn from the prompt and the
seed. A distance is ‖out − float32‖ / ‖float32‖. Exits with 1 if any distance of ours is larger than
that of diffusers. README.md in this folder has the details.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import ZImagePipeline
from PIL import Image
from safetensors.torch import load_file, save_file

import stages
from model import open_model, outlier_channels
from stages import FULL, SMALL, Cases, Largest, Picture, Tensors, in_float32

START = time.monotonic()


def tell(line: str) -> None:
    """Prints progress to standard error."""
    print(f"{time.monotonic() - START:6.1f} s  {line}", file=sys.stderr, flush=True)


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32))


def run_stages(options: argparse.Namespace, model: Path, inputs: Tensors) -> Tensors:
    """The results of `zimage` for the inputs."""
    files = [options.work / f"{model.name}-{what}.safetensors" for what in ("inputs", "outputs")]
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, files[0])
    command = ["stages", "--model", model, "--backend", options.backend, "--inputs", files[0], "-o", files[1]]
    subprocess.run([options.engine, *command], check=True)
    return load_file(files[1])


def draw(options: argparse.Namespace, model: Path, case: Picture) -> Image.Image:
    """The picture of `zimage`."""
    file = options.work / f"{model.name}-ours.png"
    command = [
        "generate", case.prompt, "--negative", case.negative, "--model", model, "--backend", options.backend,
        "--height", case.size[0], "--width", case.size[1], "--steps", case.steps, "--guidance", case.guidance,
        "--seed", case.seed, "-o", file,
    ]  # fmt: skip
    subprocess.run([options.engine, *map(str, command)], check=True)
    return Image.open(file)


def references(pipe: ZImagePipeline, cases: Cases, captions: Tensors, outliers: bool) -> tuple[Tensors, Tensors]:
    """The results of diffusers in bf16 and in float32; prints the largest values."""
    rounded = stages.features(pipe.text_encoder, cases.ids) | stages.networks(pipe, cases, captions)
    rounded["picture"] = pixels(stages.picture(pipe, cases.picture))
    tell("diffusers in bf16 is done")
    parts = {"text encoder": pipe.text_encoder, "transformer": pipe.transformer, "autoencoder": pipe.vae}
    with in_float32(*parts.values()):
        largest = {part: Largest(network) for part, network in parts.items()}
        with largest["text encoder"], largest["transformer"], largest["autoencoder"]:
            exact = stages.features(pipe.text_encoder, cases.ids) | stages.networks(pipe, cases, captions)
        tell("the stages of diffusers in float32 are done")
        exact["picture"] = pixels(stages.picture(pipe, cases.picture))
    tell("diffusers in float32 is done")
    for part, seen in largest.items():
        print(f"largest value in the {part}: {seen.value():.0f}")
        if outliers and not seen.value() >= 1000:
            raise SystemExit(f"the {part} has no values in the thousands: the outliers do not reach it")
    return rounded, exact


def without_outliers(tensors: Tensors) -> Tensors:
    """Adds the text features without the outlier channels, whose size hides the others."""
    rest = {}
    for name, tensor in tensors.items():
        if name.startswith("text."):
            kept = torch.ones(tensor.shape[-1], dtype=torch.bool)
            kept[outlier_channels(tensor.shape[-1])] = False
            rest[f"{name}, no outliers"] = tensor[:, kept]
    return tensors | rest


def distance(out: torch.Tensor, reference: torch.Tensor) -> float:
    if out.shape != reference.shape:
        raise SystemExit(f"the engine returned {list(out.shape)} where diffusers has {list(reference.shape)}")
    return float((out.double() - reference.double()).norm() / reference.double().norm())


def table(ours: Tensors, rounded: Tensors, exact: Tensors) -> bool:
    """Prints a row per stage; returns true if ours is nowhere further away."""
    width = max(map(len, exact))
    print(f"\n{'stage':{width}}  {'ours':>9}  {'diffusers':>9}  ratio")
    passed = True
    for name, reference in exact.items():
        near, far = distance(ours[name], reference), distance(rounded[name], reference)
        good = near <= far  # false for NaN
        passed &= good
        ratio = near / far if far > 0 else float("nan")
        print(f"{name:{width}}  {near:9.2e}  {far:9.2e}  {ratio:5.2f}  {'ok' if good else 'FURTHER AWAY'}")
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True, help="a built zimage")
    parser.add_argument("--work", type=Path, required=True, help="folder for the model (21 GB) and what is made from it")
    parser.add_argument("--backend", default="cuda", help="the engine's backend (default: cuda)")
    parser.add_argument("--device", help="torch's device (default: cuda, with --small cpu)")
    parser.add_argument("--outliers", action="store_true", help="channels and hidden values in the thousands")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try this script without a GPU")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    device = options.device or ("cpu" if options.small else "cuda")
    folder = options.work / ("small" if options.small else "full")
    folder = folder.with_name(folder.name + ("-outliers" if options.outliers else ""))

    pipe = open_model(folder, options.small, options.outliers, device)
    tell(f"{folder} is there")
    cases = stages.cases(pipe, SMALL if options.small else FULL)
    with in_float32(pipe.text_encoder):
        captions = stages.features(pipe.text_encoder, cases.ids)
    captions = {name: captions[f"text.{name}.features"].bfloat16() for name in cases.ids}
    if device == "cuda":
        torch.cuda.empty_cache()
    ours = run_stages(options, folder, stages.engine_inputs(cases, captions))
    tell("the stages of zimage are done")
    ours["picture"] = pixels(draw(options, folder, cases.picture))
    tell("the picture of zimage is done")
    rounded, exact = references(pipe, cases, captions, options.outliers)
    if options.outliers:
        ours, rounded, exact = map(without_outliers, (ours, rounded, exact))
    if not table(ours, rounded, exact):
        raise SystemExit("zimage is further from float32 than diffusers in bf16")


if __name__ == "__main__":
    main()
