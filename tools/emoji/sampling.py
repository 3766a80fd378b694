"""Draws pictures with the networks of training, as zimage and diffusers do. Used by training.py and
evaluate.py."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from autoencoder import Autoencoder
from networks import Layout, TextToImage

TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SHIFT = 3.0
STEPS = 8
LATENT_SIDE = 8  # pixels of a latent pixel


def encode_captions(tokenizer: Tokenizer, captions: Sequence[str]) -> list[list[int]]:
    return [encoded.ids for encoded in tokenizer.encode_batch([TEMPLATE.format(caption) for caption in captions])]


def shifted(s: Tensor, shift: float = SHIFT) -> Tensor:
    return shift * s / (1 + (shift - 1) * s)


def noise_of(seed: int, size: tuple[int, int]) -> Tensor:
    """The initial noise [1, 16, h, w] of a seed, for width and height in pixels."""
    width, height = (side // LATENT_SIDE for side in size)
    return torch.randn(1, 16, height, width, generator=torch.Generator("cpu").manual_seed(seed))


@torch.no_grad()
def sample(model: TextToImage, tokenizer: Tokenizer, captions: list[str], size: tuple[int, int], seeds: list[int], steps: int = STEPS) -> Tensor:
    """Latents [n, 16, h, w] by Euler steps."""
    device = next(model.parameters()).device
    ids = encode_captions(tokenizer, captions)
    longest = -(-max(len(tokens) for tokens in ids) // 32) * 32
    latents: list[Tensor] = [torch.empty(0)] * len(ids)
    # Captions of one padded length make one batch.
    for caption in range(32, longest + 1, 32):
        rows = [n for n, tokens in enumerate(ids) if caption - 32 < len(tokens) <= caption]
        for at in range(0, len(rows), 64):
            some = rows[at : at + 64]
            tokens = torch.zeros(len(some), caption, dtype=torch.long)
            for row, n in zip(tokens, some):
                row[: len(ids[n])] = torch.tensor(ids[n])
            lengths = torch.tensor([len(ids[n]) for n in some], device=device)
            x = torch.cat([noise_of(seeds[n], size) for n in some]).to(device)
            layout = Layout([(len(some), x.shape[2], x.shape[3], caption)], device)
            tokens = tokens.flatten().to(device)
            sigmas = torch.cat([shifted(torch.linspace(1, 1 / steps, steps)), torch.zeros(1)]).to(device)
            for now, after in zip(sigmas, sigmas[1:]):
                x = x - (after - now) * model([x], (1 - now).expand(len(some)), tokens, lengths, layout)[0]
            for n, found in zip(some, x):
                latents[n] = found
    return torch.stack(latents)


def generate(
    model: TextToImage, vae: Autoencoder, tokenizer: Tokenizer, captions: list[str], size: tuple[int, int], seeds: list[int], steps: int = STEPS
) -> Tensor:
    """Pictures [n, 3, h, w] in 0..1."""
    return torch.cat([vae.decode(some) for some in sample(model, tokenizer, captions, size, seeds, steps).split(16)])
