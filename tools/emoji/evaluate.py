"""Measures the embedded default on captions drawn by a fixed seed, and prints every target.

Run: python tools/emoji/evaluate.py --work target/emoji --model models/emoji
     python tools/emoji/evaluate.py --work target/emoji --model models/emoji --binary target/release/zimage
     python tools/emoji/evaluate.py --binary target/release/zimage --flags="--precision fp8" --phrasings
Needs: the packs of data.py in WORK, a stored model folder, torch and tokenizers; with --binary the
built zimage, which then draws the pictures. A GPU is used if there is one.

The noise of a seed decides what a caption leaves open (placement.py), so each caption and seed have
one right picture. An object is right if its own picture is the nearest of all pictures of the packs
(RGB mean squared error, in its box, at up to 128 pixels a side), drawn with the same size, tilt and
mirroring over the rest of the scene. A background is right if the named colour is the nearest to
the median of the border, or a hex code is within 8 levels of it. A count is right if every object
is, and nothing is drawn besides them.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from captions import Ground, Scene, Writer, article
from export import read_vae, read_weights
from networks import TextToImage
from pictures import Album, psnr, read_catalogue, save_sheet
from placement import Object, numbers_of, size_share
from sampling import GUIDANCE, STEPS, decode, noise_of, sample
from vae import edge_energy
from words import ADORN, COLOURS

SEED = 20_000
BORDER = 6
JUDGED = 128  # pixels of a box's side at which objects are compared
#: Pictures are first compared at about this side. Averages over blocks have at most the error of their pixels,
#: apart from products of alpha, background and cover. Those with more than `MARGIN` times the right picture's
#: error drop out.
COARSE, MARGIN = 32, 1.1
OTHER_SIZES = [(384, 256), (256, 384), (384, 384), (512, 512)]
PHRASINGS = ["bare noun", "article", "adjective before", "adjective after", "emoji of", "drawing of"]
Case = tuple[Scene, int]  # with its seed


def numbers(seed: int, size: tuple[int, int]) -> np.ndarray:
    return numbers_of(noise_of(seed, size))[0].double().numpy()


def phrased(kind: str, name: str, adjective: str) -> str:
    return {
        "bare noun": name,
        "article": article(name),
        "adjective before": article(f"{adjective} {name}"),
        "adjective after": f"{name}, {adjective}",
        "emoji of": f"emoji of {article(name)}",
        "drawing of": f"drawing of {article(name)}",
    }[kind]


class Cases:
    """Draws scenes with their seeds."""

    def __init__(self, writer: Writer, first: int):
        self.writer, self.seed = writer, first

    def _next(self, size: tuple[int, int]) -> np.ndarray:
        self.seed += 1
        return numbers(self.seed, size)

    def single(self, kind: str, size: tuple[int, int], named: bool) -> Case:
        """One picture of the whole catalogue under its label."""
        open_numbers, w = self._next(size), self.writer
        index = w.rng.randrange(len(w.catalogue))
        ground, words = w.ground(open_numbers, 1.0 if named else 0.0)
        text = w.with_ground(phrased(kind, w.catalogue[index].label, w.rng.choice(ADORN)), words)
        item = w.alone(*size, open_numbers, index, size_share(open_numbers))
        return Scene(*size, (item,), ground, text, open_numbers), self.seed

    def made(self, make: str, size: tuple[int, int], **options: int) -> Case:
        """A scene by this method of the writer, over a background that is named in two of three."""
        open_numbers = self._next(size)
        ground, words = self.writer.ground(open_numbers, 0.67)
        objects, text = getattr(self.writer, make)(*size, open_numbers, **options)
        return Scene(*size, tuple(objects), ground, self.writer.with_ground(text, words), open_numbers), self.seed


def errors(sprites: Tensor, views: Tensor) -> Tensor:
    """The mean squared error of each sprite [n, 4, s, s] in views [7, s, s]: the drawn colours, those below
    the object, and the share of it that is not covered."""
    drawn, rest, seen = views[:3], views[3:6], views[6:]
    return torch.cat([(seen * (s[:, :3] + (1 - s[:, 3:]) * rest - drawn)).square().mean((1, 2, 3)) for s in sprites.split(256)])


class Judge:
    def __init__(self, album: Album):
        self.album, self.colours = album, torch.tensor([rgb for rgb, _ in COLOURS], device=album.device) / 255

    @torch.no_grad()
    def right(self, made: list[Tensor], cases: list[Case]) -> list[list[bool]]:
        """For each scene, one flag per object."""
        alike: dict[tuple[int, float, bool, int], list[tuple[int, int]]] = defaultdict(list)
        for n, (scene, _) in enumerate(cases):
            for part, o in enumerate(scene.objects):
                alike[min(o.side, JUDGED), o.tilt, o.mirrored, o.tint].append((n, part))
        flags = [[False] * len(scene.objects) for scene, _ in cases]
        count = len(self.album.levels[0])
        for (side, tilt, mirrored, tint), members in alike.items():
            every = [Object(i, 0, 0, side, tilt, mirrored, tint) for i in range(count)]
            sprites = torch.cat([self.album.sprites(every[at : at + 128], side, side) for at in range(0, count, 128)])
            shrink = max(side // COARSE, 1)
            small = F.avg_pool2d(sprites, shrink)
            for n, part in members:
                scene, o = cases[n][0], cases[n][0].objects[part]
                below = self.album.draw([Scene(scene.width, scene.height, scene.objects[:part], scene.ground, "", scene.numbers)])
                seen = torch.ones_like(below[:, :1])
                if scene.objects[part + 1 :]:
                    above = self.album.sprites(list(scene.objects[part + 1 :]), scene.width, scene.height)
                    seen = (1 - above[:, 3:]).prod(0, keepdim=True)
                views = torch.cat([made[n][None], below, seen], 1)[..., o.top : o.top + o.side, o.left : o.left + o.side]
                views = F.interpolate(views, (side, side), mode="area")[0]
                (wanted,) = errors(sprites[o.index, None], views)
                near = errors(small, F.avg_pool2d(views, shrink)) <= MARGIN * wanted + 1e-4
                near[o.index] = True
                flags[n][part] = bool(wanted <= errors(sprites[near], views).min() + 1e-6)
        return flags

    def background_right(self, made: Tensor, scene: Scene) -> bool:
        edge = torch.ones(made.shape[1:], dtype=torch.bool, device=made.device)
        edge[BORDER:-BORDER, BORDER:-BORDER] = False
        median = made[:, edge].median(1).values
        if scene.ground.colour >= 0:
            return int((self.colours - median).square().sum(1).argmin()) == scene.ground.colour
        return bool((median * 255 - torch.tensor(scene.ground.rgb, device=made.device)).abs().max() <= 8)

    def nothing_else(self, made: Tensor, scene: Scene) -> bool:
        """True if the picture outside the objects is the background."""
        covered = self.album.sprites(list(scene.objects), scene.width, scene.height)[:, 3].amax(0) > 0.01
        wanted = self.album.draw([scene])[0]
        return bool(((made - wanted).abs().mean(0)[~covered]).mean() < 0.05)


def share(flags: list[bool]) -> float:
    return round(100 * sum(flags) / max(len(flags), 1), 1)


def with_zimage(cases: list[Case], binary: Path, flags: list[str], jobs: int) -> list[Tensor]:
    """Pictures by `binary generate` with these flags, this many processes at a time."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:

        def drawn(case: Case) -> Tensor:
            scene, seed = case
            path = f"{folder}/{seed}.png"
            options = [*flags, "--seed", seed, "--width", scene.width, "--height", scene.height, "-o", path]
            subprocess.run([binary, "generate", scene.caption, *map(str, options)], check=True, capture_output=True)
            return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) / 255

        return list(pool.map(drawn, cases))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("target/emoji"), help="the folder that data.py wrote")
    parser.add_argument("--model", type=Path, default=Path("models/emoji"))
    parser.add_argument("--binary", type=Path, help="zimage, as `cargo build --release` made it; without it the networks run in PyTorch")
    parser.add_argument("--flags", default="", help="flags for zimage, in one argument")
    parser.add_argument("--jobs", type=int, default=1, help="how many zimage processes draw at a time")
    parser.add_argument("--phrasings", action="store_true", help="only the six phrasings")
    parser.add_argument("--captions", type=int, default=50, help="captions for each phrasing, and for each other size")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--limit", type=int, help="use only the first LIMIT pictures, for a trial")
    parser.add_argument("--sheet", type=Path, help="also write the first pictures above the right ones to this PNG")
    args = parser.parse_args()
    start = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")

    album, catalogue = Album(args.work, device, args.limit), read_catalogue(args.work, args.limit)
    model, vae = TextToImage(), read_vae(args.model).to(device)
    read_weights(args.model, model)
    model.to(device)
    tokenizer, judge = Tokenizer.from_file(str(args.model / "tokenizer" / "tokenizer.json")), Judge(album)
    cases, many, square = Cases(Writer(catalogue, SEED), SEED), args.captions, (256, 256)

    def draw(some: list[Case]) -> list[Tensor]:
        if args.binary:
            flags = [*args.flags.split(), "--model", args.model, "--steps", args.steps, "--guidance", args.guidance]
            return [p.to(device) for p in with_zimage(some, args.binary, flags, args.jobs)]
        size = (some[0][0].width, some[0][0].height)
        latents = sample(model, tokenizer, [s.caption for s, _ in some], size, [seed for _, seed in some], args.steps, args.guidance)
        return list((decode(vae, latents) * 255).round() / 255)

    def wanted(some: list[Case]) -> Tensor:
        return torch.cat([album.draw([scene]) for scene, _ in some])

    figures: dict[str, str] = {}
    sheet: list[list[Tensor]] = []
    grounds: list[bool] = []
    distances, edges = [], []

    def report(title: str, target: str, figure: str) -> None:
        figures[title.strip()] = figure
        print(f"{title:<52} {target:>8}  {figure}", flush=True)

    def singles(title: str, kinds: list[str], size: tuple[int, int], target: str) -> None:
        some = [cases.single(kinds[n % len(kinds)], size, n % 3 > 0) for n in range(many)]
        made, right = draw(some), wanted(some)
        report(title, target, f"{share([all(f) for f in judge.right(made, some)])} %")
        grounds.extend(judge.background_right(made[n], some[n][0]) for n in range(many) if n % 3)
        sheet.extend([made[:8], list(right[:8])])
        near, sharp = psnr(torch.stack(made), right), edge_energy(torch.stack(made)) / edge_energy(right)
        if size == square:
            distances.append(near)
            edges.append(sharp)
        else:
            report(f"  {size[0]}×{size[1]}: median PSNR, edge energy", "", f"{near.median():.1f} dB, {sharp.median():.2f}")

    def several() -> None:
        pairs = [cases.made("pair", square) for _ in range(2 * many)]
        made = draw(pairs)
        report("pairs, both right", "≥ 85 %", f"{share([all(f) for f in judge.right(made, pairs)])} %")
        sheet.extend([made[:8], list(wanted(pairs[:8]))])
        counts = [cases.single("article", square, n % 3 > 0) if n % 4 == 0 else cases.made("count", square, many=n % 4 + 1) for n in range(2 * many)]
        made = draw(counts)
        right = judge.right(made, counts)
        exact = [all(right[n]) and judge.nothing_else(made[n], counts[n][0]) for n in range(len(counts))]
        report("counts from one to four", "≥ 80 %", f"{share(exact)} %")
        sheet.extend([made[:8], list(wanted(counts[:8]))])

    def two_seeds() -> None:
        first = [cases.single("article", square, False) for _ in range(many)]
        second = [(Scene(*square, s.objects, Ground(), s.caption, s.numbers), seed + 100_000) for s, seed in first]
        between = psnr(torch.stack(draw(first)), torch.stack(draw(second))).median()
        report("median PSNR between two seeds of one open caption", "≤ 18 dB", f"{between:.2f} dB")

    size = sum(path.stat().st_size for path in args.model.rglob("*") if path.is_file())
    report("folder", "≤ 9 MB", f"{size / 1e6:.2f} MB")
    for kind in PHRASINGS:
        singles(f"nearest right: {kind}", [kind], square, "≥ 95 %")
    if not args.phrasings:
        for size in OTHER_SIZES:
            singles(f"nearest right: {size[0]}×{size[1]}", PHRASINGS, size, "≥ 90 %")
        several()
    report("background", "≥ 99 %", f"{share(grounds)} %")
    report("median PSNR to the right picture, 256×256", "≥ 32 dB", f"{torch.cat(distances).median():.2f} dB")
    report("edge gradient energy relative to the data", "≥ 0.85", f"{torch.cat(edges).median():.3f}")
    if not args.phrasings:
        two_seeds()

    measured = dict(steps=args.steps, guidance=args.guidance, captions=many, seconds=round(time.time() - start), figures=figures)
    print(json.dumps(measured, ensure_ascii=False))
    if args.sheet:
        save_sheet(sheet, args.sheet)


if __name__ == "__main__":
    main()
