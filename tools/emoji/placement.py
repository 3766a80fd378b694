"""The rule that ties the open properties of a scene to the noise.

A caption such as "a fox" leaves the fox's position, size, tilt and mirroring open, and the shade of
the background. They are functions of 16 numbers that this module reads from the initial noise, so
the transformer can tell them from its input at the first step: each caption and noise have one
picture, the paths from noise to pictures are nearly straight, and few steps are enough. The noise
of a seed is still plain normal noise. Positions and sizes are multiples of the patch, 16 pixels.

Used by captions.py, training.py and evaluate.py; needs numpy and torch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PATCH = 16  # pixels of a patch
NUMBERS = 16  # as many as latent channels
SHADE, ACROSS, DOWN, SIZE, TILTED, MIRRORED = 0, 1, 2, 3, 4, 8
REFERENCE = 256  # patches of a picture whose numbers have standard deviation 1
TILT = 10.0  # degrees
TILTED_FROM = 1.75  # so one picture in twelve of 256×256 is tilted
MIRRORED_FROM = 1.2  # so one in nine that may be is mirrored
USUAL, SMALLER = 0.875, 0.75  # of the shorter side
SMALLER_BELOW = -0.9  # so one in five is smaller
MOST_OBJECTS = 4


def pattern(height: int, width: int, device: torch.device) -> Tensor:
    """The checkerboard of +1 and −1 over the pixels of one latent channel [h, w]. Pictures have
    almost nothing of it, so it survives the mixing of noise and picture."""
    sum_of_indices = torch.arange(height, device=device)[:, None] + torch.arange(width, device=device)
    return 1.0 - 2.0 * (sum_of_indices % 2)


def numbers_of(noise: Tensor) -> Tensor:
    """The numbers [B, 16] of noise [B, 16, h, w]: for each channel √256·(mean over the patches of
    half the sum with the checkerboard). Their standard deviation is √(256 / patches)."""
    height, width = noise.shape[2:]
    total = (noise * pattern(height, width, noise.device)).sum((2, 3))
    return total * (REFERENCE**0.5 * 2 / (height * width))


def with_numbers(noise: Tensor, numbers: Tensor) -> Tensor:
    """The noise with the given numbers in place of its own. If the numbers are normal with the
    standard deviation above, so is the result."""
    board = pattern(*noise.shape[2:], noise.device)
    change = (numbers - numbers_of(noise)) / (2 * REFERENCE**0.5)
    return noise + change[:, :, None, None] * board


def draw_numbers(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """The numbers of random noise for a picture of these pixels."""
    return rng.standard_normal(NUMBERS) * (REFERENCE * PATCH * PATCH / (width * height)) ** 0.5


@dataclass(frozen=True)
class Object:
    """A picture of the catalogue in a scene: its box as left, top and side in pixels, its tilt in
    degrees clockwise, whether it is mirrored, and its tint (-1: none)."""

    index: int
    left: int
    top: int
    side: int
    tilt: float = 0.0
    mirrored: bool = False
    tint: int = -1


def grid(pixels: float) -> int:
    """Pixels rounded to whole patches."""
    return PATCH * max(int(pixels / PATCH + 0.5), 0)


def shade(numbers: np.ndarray) -> float:
    """0 to 1."""
    return float(np.clip(0.5 + 0.3 * numbers[SHADE], 0, 1))


def slide(free: int, number: float) -> int:
    """A position in `free` pixels: the middle for 0, the ends from about ±1.5 on."""
    return grid(free * float(np.clip(0.5 + 0.33 * number, 0, 1)))


def size_share(numbers: np.ndarray) -> float:
    """The side of a lone picture whose size is open, as a share of the shorter side."""
    return SMALLER if numbers[SIZE] < SMALLER_BELOW else USUAL


def tilt(numbers: np.ndarray, nth: int) -> float:
    number = numbers[TILTED + nth]
    return TILT if number > TILTED_FROM else -TILT if number < -TILTED_FROM else 0.0


def mirrored(numbers: np.ndarray, nth: int, may: bool) -> bool:
    return bool(may and numbers[MIRRORED + nth] > MIRRORED_FROM)
