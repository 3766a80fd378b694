"""Pictures as tensors: decodes the packs that data.py wrote, and draws scenes on any device.

Used by vae.py, training.py and evaluate.py; needs numpy, torch and pillow.
"""

import io
import json
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import cos, radians, sin
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from captions import Ground, Picture, Scene
from placement import Object
from words import SETTINGS, TINTS

SIDE = 256
PACKS = ("pack-0.npz", "pack-1.npz")
#: A tilted picture is drawn smaller by this factor, so that its box contains it.
TILTED_FIT = 0.87


def packs(work: Path, limit: int | None) -> Iterator[tuple[list[Picture], list[bytes]]]:
    """The catalogue and the WebP files of each pack. A pack that LIMIT does not need may be
    missing."""
    count = 0
    for pack in PACKS:
        if limit is not None and count >= limit:
            return
        arrays = np.load(work / pack)
        blob, ends = arrays["webp"], arrays["ends"]
        catalogue = [Picture(**entry) for entry in json.loads(zlib.decompress(bytes(arrays["catalogue"])))]
        yield catalogue, [blob[start:end].tobytes() for start, end in zip([0, *ends[:-1]], ends)]
        count += len(catalogue)


def read_catalogue(work: Path, limit: int | None = None) -> list[Picture]:
    """The metadata of all pictures, or of the first LIMIT."""
    return [picture for catalogue, _ in packs(work, limit) for picture in catalogue][:limit]


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture, both in 0..1."""
    return -10 * (a - b).square().mean((1, 2, 3)).clamp(min=1e-10).log10()


def save_sheet(rows: list[list[Tensor]], path: Path, cell: int = SIDE) -> None:
    """Rows of pictures [3, h, w] in 0..1 as one image file; larger ones are shrunk to the cell."""
    sheet = torch.ones(3, len(rows) * cell, max(len(row) for row in rows) * cell)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            picture = picture.detach().float().cpu()
            factor = min(1.0, cell / max(picture.shape[1:]))
            if factor < 1:
                picture = F.interpolate(picture[None], scale_factor=factor, mode="area")[0]
            height, width = picture.shape[1:]
            sheet[:, y * cell : y * cell + height, x * cell : x * cell + width] = picture
    Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


class Album:
    """Every picture of the packs with 256, 128 and 64 pixels a side, as RGBA bytes with colour
    multiplied by alpha, on one device."""

    def __init__(self, work: Path, device: torch.device, limit: int | None = None):
        blobs = [blob for _, some in packs(work, limit) for blob in some][:limit]

        def decode(blob: bytes) -> np.ndarray:
            picture = Image.open(io.BytesIO(blob)).convert("RGBA")
            return np.asarray(picture if picture.size == (SIDE, SIDE) else picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))

        with ThreadPoolExecutor() as pool:
            full = torch.from_numpy(np.stack(list(pool.map(decode, blobs)))).permute(0, 3, 1, 2)
        levels: list[list[Tensor]] = [[], [], []]
        for chunk in full.split(64):
            x = chunk.to(device).float() / 255
            x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1)
            for level in levels:
                level.append((x * 255).round().to(torch.uint8))
                x = F.avg_pool2d(x, 2)
        self.levels = [torch.cat(level) for level in levels]
        self.grey = torch.cat([self._is_grey(chunk) for chunk in self.levels[1].split(128)])
        self.hues = torch.tensor([hue for _, hue, *_ in TINTS] + [(1.0, 1.0, 1.0)], device=device)
        self.tint_levels = torch.tensor([levels for _, _, *levels in TINTS] + [[1.0, 1.0, 0.0]], device=device)
        self.device = device

    @staticmethod
    def _is_grey(chunk: Tensor) -> Tensor:
        x = chunk.float() / 255
        value, low = x[:, :3].amax(1), x[:, :3].amin(1)
        return (value - low).sum((1, 2)) / x[:, :3].amax(1).sum((1, 2)).clamp(min=1e-3) < 0.25

    def tint(self, sprite: Tensor, tints: Tensor, grey: Tensor) -> Tensor:
        """The same pictures with another hue. Saturation and value stay, but a grey picture takes on
        some of the colour."""
        alpha = sprite[:, 3:]
        colour = sprite[:, :3] / alpha.clamp(min=1e-3)
        value, low = colour.amax(1, keepdim=True), colour.amin(1, keepdim=True)
        saturation = (value - low) / value.clamp(min=1e-3)
        saturation = torch.where(grey[:, None, None, None], 0.55 + 0.45 * saturation, saturation)
        level = self.tint_levels[tints][:, :, None, None]
        saturation = saturation * level[:, :1]
        value = level[:, 2:] + (1 - level[:, 2:]) * value * level[:, 1:2]
        hued = value * (1 - saturation + saturation * self.hues[tints][:, :, None, None])
        tinted = torch.cat([hued.clamp(0, 1) * alpha, alpha], 1)
        return torch.where((tints < 0)[:, None, None, None], sprite, tinted)

    def sprites(self, objects: list[Object], width: int, height: int) -> Tensor:
        """Each object alone on a transparent canvas [n, 4, h, w], colour multiplied by alpha."""
        canvas = torch.empty(len(objects), 4, height, width, device=self.device)
        for level, pictures in enumerate(self.levels):
            side = pictures.shape[-1]
            # The smallest stored picture that is not smaller than the box.
            here = [n for n, o in enumerate(objects) if (o.side <= side or level == 0) and (2 * o.side > side or level == 2)]
            if not here:
                continue
            chosen = [objects[n] for n in here]
            matrices = []
            for o in chosen:
                fit = 1 / (TILTED_FIT if o.tilt else 1.0)
                c, s, flip = fit * cos(radians(o.tilt)), fit * sin(radians(o.tilt)), -1 if o.mirrored else 1
                ax, bx = width / o.side, (width - 2 * o.left) / o.side - 1
                ay, by = height / o.side, (height - 2 * o.top) / o.side - 1
                matrices.append([[flip * c * ax, flip * s * ay, flip * (c * bx + s * by)], [-s * ax, c * ay, -s * bx + c * by]])
            index = torch.tensor([o.index for o in chosen], device=self.device)
            sprite = pictures[index].float() / 255
            if any(o.tint >= 0 for o in chosen):
                sprite = self.tint(sprite, torch.tensor([o.tint for o in chosen], device=self.device), self.grey[index])
            where = F.affine_grid(torch.tensor(matrices, device=self.device), [len(chosen), 4, height, width], align_corners=False)
            drawn = F.grid_sample(sprite, where, mode="bicubic", align_corners=False).clamp(0, 1)
            drawn[:, :3] = torch.minimum(drawn[:, :3], drawn[:, 3:])
            canvas[here] = drawn
        return canvas

    def grounds(self, grounds: list[Ground], width: int, height: int) -> Tensor:
        """Backgrounds [n, 3, h, w] in 0..1."""
        colours = torch.tensor([g.rgb for g in grounds], device=self.device, dtype=torch.float) / 255
        canvas = colours[:, :, None, None].expand(-1, -1, height, width).contiguous()
        y = ((torch.arange(height, device=self.device) + 0.5) / height)[None, :, None]
        for n, g in enumerate(grounds):
            if g.setting < 0:
                continue
            landscape = SETTINGS[g.setting]
            (a, b), (c, d) = (torch.tensor(pair, device=self.device, dtype=torch.float)[:, :, None, None] / 255 for pair in (landscape.sky, landscape.ground))
            horizon = landscape.horizon
            sky, land = a + (b - a) * (y / horizon).clamp(max=1), c + (d - c) * ((y - horizon) / max(1 - horizon, 0.01)).clamp(0, 1)
            canvas[n] = torch.where(y < horizon, sky, land)
        return canvas

    def draw(self, scenes: list[Scene]) -> Tensor:
        """Scenes of one size as pictures [n, 3, h, w] in 0..1."""
        width, height = scenes[0].width, scenes[0].height
        canvas = self.grounds([s.ground for s in scenes], width, height)
        for layer in range(max(len(s.objects) for s in scenes)):
            rows = [n for n, s in enumerate(scenes) if len(s.objects) > layer]
            sprite = self.sprites([scenes[n].objects[layer] for n in rows], width, height)
            canvas[rows] = sprite[:, :3] + (1 - sprite[:, 3:]) * canvas[rows]
        return canvas
