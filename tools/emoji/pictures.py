"""Pictures as tensors: decodes the pack that data.py wrote, and draws scenes from it on any device.

Used by vae.py, transformer.py and evaluate.py; needs numpy, torch and pillow.
"""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from captions import COLOURS, PLACES, TINTS, WHOLE, Picture, Scene

SIDE = 256


def read_catalogue(pack: Path) -> list[Picture]:
    return [Picture(**entry) for entry in json.loads(bytes(np.load(pack)["catalogue"]))]


class Album:
    """Every picture of the pack at full and at half size, as RGBA bytes with straight alpha on one
    device."""

    def __init__(self, pack: Path, device: torch.device, limit: int | None = None):
        arrays = np.load(pack)
        blob, ends = arrays["webp"], arrays["ends"][:limit]
        starts = np.concatenate([[0], ends[:-1]])

        def decode(start: int, end: int) -> np.ndarray:
            picture = Image.open(io.BytesIO(blob[start:end].tobytes())).convert("RGBA")
            return np.asarray(picture if picture.size == (SIDE, SIDE) else picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))

        with ThreadPoolExecutor() as pool:
            stack = np.stack(list(pool.map(decode, starts, ends)))
        self.full = torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous().to(device)
        self.half = torch.cat([self._halved(chunk) for chunk in self.full.split(128)])
        self.grey = torch.cat([self._is_grey(chunk) for chunk in self.half.split(128)])
        self.colours = torch.tensor([rgb for rgb, _ in COLOURS], device=device) / 255
        self.hues = torch.tensor([hue for _, hue, *_ in TINTS] + [(1.0, 1.0, 1.0)], device=device)
        self.tint_levels = torch.tensor([levels for _, _, *levels in TINTS] + [[1.0, 1.0, 0.0]], device=device)

    @staticmethod
    def _halved(chunk: torch.Tensor) -> torch.Tensor:
        x = chunk.float()
        alpha = F.avg_pool2d(x[:, 3:], 2)
        colour = F.avg_pool2d(x[:, :3] * x[:, 3:], 2) / alpha.clamp(min=1e-3)
        return torch.cat([colour, alpha], 1).round().clamp(0, 255).to(torch.uint8)

    @staticmethod
    def _is_grey(chunk: torch.Tensor) -> torch.Tensor:
        x = chunk.float() / 255
        value, low = x[:, :3].amax(1), x[:, :3].amin(1)
        saturation = (value - low) / value.clamp(min=1e-3)
        return (saturation * x[:, 3]).sum((1, 2)) / x[:, 3].sum((1, 2)) < 0.25

    def tint(self, colour: torch.Tensor, tints: torch.Tensor, grey: torch.Tensor) -> torch.Tensor:
        """The same picture with another hue. Saturation and value stay, but a grey picture takes on
        some of the colour."""
        value, low = colour.amax(1, keepdim=True), colour.amin(1, keepdim=True)
        saturation = (value - low) / value.clamp(min=1e-3)
        saturation = torch.where(grey[:, None, None, None], 0.55 + 0.45 * saturation, saturation)
        level = self.tint_levels[tints][:, :, None, None]
        saturation = saturation * level[:, :1]
        value = level[:, 2:] + (1 - level[:, 2:]) * value * level[:, 1:2]
        hued = value * (1 - saturation + saturation * self.hues[tints][:, :, None, None])
        return torch.where((tints < 0)[:, None, None, None], colour, hued)

    def draw(self, scenes: list[Scene]) -> torch.Tensor:
        """Scenes as pictures [n, 3, 256, 256] in 0..1."""
        device = self.full.device
        ground = self.colours[torch.tensor([s.colour for s in scenes], device=device)]
        canvas = ground[:, :, None, None].expand(-1, -1, SIDE, SIDE).contiguous()
        for place, ((x, y), _) in enumerate(PLACES):
            here = [(n, i, t) for n, s in enumerate(scenes) for i, p, t in zip(s.pictures, s.places, s.tints) if p == place]
            if not here:
                continue
            rows, index, tints = torch.tensor(here, device=device).unbind(1)
            side = SIDE if place == WHOLE else SIDE // 2
            sprite = (self.full if place == WHOLE else self.half)[index].float() / 255
            colour, alpha = sprite[:, :3], sprite[:, 3:]
            if (torch.tensor([t for *_, t in here]) >= 0).any():
                colour = self.tint(colour, tints, self.grey[index])
            below = canvas[rows, :, y : y + side, x : x + side]
            canvas[rows, :, y : y + side, x : x + side] = below + alpha * (colour - below)
        return canvas
