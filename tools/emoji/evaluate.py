"""Measures the embedded default on captions drawn by a fixed seed, and prints one JSON line.

Run: python tools/emoji/evaluate.py --work target/emoji --model models/emoji
     python tools/emoji/evaluate.py --work target/emoji --model models/emoji --engine zimage --binary target/release/zimage
Needs: WORK/pack.npz from data.py and requirements.txt; with `--engine zimage` the built binary. A
GPU is used if there is one.

Singles: random pictures under their labels, phrased as people write, two of three with a named
background. A picture is correct if it is the nearest (RGB mean squared error) of all training
pictures on the same background. A background is correct if the named colour is the nearest to the
median of the border. Pairs: two pictures side by side or one above the other; each half is judged
like a single.
"""

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captions import PLACES, WHITE, WHOLE, Scene, Writer
from pictures import SIDE, Album, read_catalogue
from vae import psnr, save_sheet

SEED = 20_000
BORDER = 6


def draw_singles(writer: Writer, count: int) -> list[Scene]:
    scenes = []
    for n in range(count):
        index = writer.rng.randrange(len(writer.catalogue))
        colour, word = WHITE, ""
        while n % 3 and not word:
            colour, word = writer.background()
        text = writer.phrase(writer.catalogue[index].label)
        scenes.append(Scene((index,), (WHOLE,), (-1,), colour, writer.with_background(text, word)))
    return scenes


def draw_pairs(writer: Writer, count: int) -> list[Scene]:
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = writer.pair()
        if scene.tints == (-1, -1):
            scenes.append(scene)
    return scenes


def with_diffusers(prompts: list[str], args: argparse.Namespace, device: torch.device) -> Tensor:
    from diffusers import ZImagePipeline

    pipeline = ZImagePipeline.from_pretrained(args.model, torch_dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    pictures = []
    for first in range(0, len(prompts), args.batch):
        some = prompts[first : first + args.batch]
        made = pipeline(
            list(some),
            height=SIDE,
            width=SIDE,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance,
            generator=[torch.Generator("cpu").manual_seed(first + n) for n in range(len(some))],
            output_type="np",
        ).images
        pictures.append(torch.from_numpy(made).permute(0, 3, 1, 2))
    return (torch.cat(pictures) * 255).round().to(device) / 255


def with_zimage(prompts: list[str], args: argparse.Namespace, device: torch.device) -> Tensor:
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, prompt in enumerate(prompts):
            path = f"{folder}/{seed}.png"
            options = ["--model", args.model, "--seed", seed, "--steps", args.steps, "--guidance", args.guidance, "-o", path]
            subprocess.run([args.binary, "generate", prompt, *map(str, options)], check=True, capture_output=True)
            pictures.append(torch.from_numpy(np.array(Image.open(path).convert("RGB"))))
    return torch.stack(pictures).permute(0, 3, 1, 2).to(device) / 255


def errors(generated: Tensor, sprites: Tensor, ground: Tensor) -> Tensor:
    """Mean squared error of every generated picture [g, 3, h, w] against every sprite [n, 4, h, w]
    on the ground colour: [g, n]."""
    target = (generated - ground[:, None, None]).flatten(1)
    columns = []
    for chunk in sprites.split(64):
        x = chunk.float() / 255
        composed = (x[:, 3:] * (x[:, :3] - ground[:, None, None])).flatten(1)
        columns.append(composed.square().sum(1) - 2 * target @ composed.T)
    return (torch.cat(columns, 1) + target.square().sum(1, keepdim=True)) / target.shape[1]


def recognised(generated: Tensor, scenes: list[Scene], album: Album) -> list[list[bool]]:
    """For each scene, one flag per picture: true if it is the nearest one, or indistinguishable
    from it."""
    groups: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for n, scene in enumerate(scenes):
        for part, place in enumerate(scene.places):
            groups[scene.colour, place].append((n, part))
    right = [[False] * len(scene.places) for scene in scenes]
    for (colour, place), members in groups.items():
        (x, y), _ = PLACES[place]
        sprites = album.full if place == WHOLE else album.half
        side = sprites.shape[-1]
        views = generated[[n for n, _ in members], :, y : y + side, x : x + side]
        distance = errors(views, sprites, album.colours[colour])
        for row, (n, part) in zip(distance, members):
            right[n][part] = bool(row[scenes[n].pictures[part]] <= row.min() + 1e-6)
    return right


def background_right(generated: Tensor, scene: Scene, colours: Tensor) -> bool:
    edge = torch.ones(SIDE, SIDE, dtype=torch.bool, device=generated.device)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    median = generated[:, edge].median(1).values
    return int((colours - median).square().sum(1).argmin()) == scene.colour


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("target/emoji"), help="the folder that data.py wrote")
    parser.add_argument("--model", type=Path, default=Path("models/emoji"))
    parser.add_argument("--engine", choices=["diffusers", "zimage"], default="diffusers")
    parser.add_argument("--binary", type=Path, help="zimage, as `cargo build --release` made it")
    parser.add_argument("--captions", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=0.0)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--sheet", type=Path, help="also write the first 40 singles above the right pictures to this PNG")
    args = parser.parse_args()
    if args.engine == "zimage" and args.binary is None:
        parser.error("--engine zimage needs --binary")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    album = Album(args.work / "pack.npz", device)
    writer = Writer(read_catalogue(args.work / "pack.npz"), SEED)
    singles, pairs = draw_singles(writer, args.captions), draw_pairs(writer, args.pairs)
    engine = with_diffusers if args.engine == "diffusers" else with_zimage
    generated = engine([scene.caption for scene in singles + pairs], args, device)
    made, made_pairs = generated[: len(singles)], generated[len(singles) :]

    right = [all(parts) for parts in recognised(made, singles, album)]
    named = [n for n in range(len(singles)) if n % 3]
    wanted = torch.cat([album.draw([scene]) for scene in singles])
    found = recognised(made_pairs, pairs, album)
    if args.sheet:
        rows = [row for n in range(0, min(40, len(singles)) - 9, 10) for row in (made[n : n + 10], wanted[n : n + 10])]
        save_sheet(rows, args.sheet)
    figures = {
        "engine": args.engine,
        "steps": args.steps,
        "guidance": args.guidance,
        "captions": len(singles),
        "nearest_right": round(sum(right) / len(singles), 4),
        "backgrounds_named": len(named),
        "background_right": round(sum(background_right(made[n], singles[n], album.colours) for n in named) / len(named), 4),
        "median_psnr_db": round(psnr(made, wanted).median().item(), 2),
        "pairs": len(pairs),
        "pairs_both_right": round(sum(all(parts) for parts in found) / max(len(pairs), 1), 4),
        "pairs_halves_right": round(sum(sum(parts) for parts in found) / max(2 * len(pairs), 1), 4),
        "wrong": [singles[n].caption for n in range(len(singles)) if not right[n]][:40],
    }
    print(json.dumps(figures, ensure_ascii=False))


if __name__ == "__main__":
    main()
