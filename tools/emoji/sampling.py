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
STEPS, GUIDANCE = 4, 1.0
LATENT_SIDE = 8  # pixels of a latent pixel


def encode_captions(tokenizer: Tokenizer, captions: Sequence[str]) -> list[list[int]]:
    return [encoded.ids for encoded in tokenizer.encode_batch([TEMPLATE.format(caption) for caption in captions])]


def shifted(s: Tensor, shift: float = SHIFT) -> Tensor:
    return shift * s / (1 + (shift - 1) * s)


def noise_of(seed: int, size: tuple[int, int]) -> Tensor:
    """The initial noise [1, 16, h, w] of a seed, for width and height in pixels."""
    width, height = (side // LATENT_SIDE for side in size)
    return torch.randn(1, 16, height, width, generator=torch.Generator("cpu").manual_seed(seed))


def padded(ids: list[list[int]], length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids of captions, each with zeros up to `length`, one after the other, and their lengths."""
    tokens = torch.zeros(len(ids), length, dtype=torch.long)
    for row, caption in zip(tokens, ids):
        row[: len(caption)] = torch.tensor(caption)
    return tokens.flatten().to(device), torch.tensor([len(caption) for caption in ids], device=device)


@torch.no_grad()
def sample(
    model: TextToImage,
    tokenizer: Tokenizer,
    captions: list[str],
    size: tuple[int, int],
    seeds: list[int],
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Tensor:
    """Latents [n, 16, h, w] by Euler steps. With guidance, the velocity moves away from that of the
    empty caption by this multiple of their difference, as in Z-Image."""
    device = next(model.parameters()).device
    ids = encode_captions(tokenizer, captions)
    (empty,) = encode_captions(tokenizer, [""])
    longest = -(-max(len(tokens) for tokens in ids) // 32) * 32
    latents: list[Tensor] = [torch.empty(0)] * len(ids)
    # Captions of one padded length make one batch.
    for caption in range(32, longest + 1, 32):
        rows = [n for n, tokens in enumerate(ids) if caption - 32 < len(tokens) <= caption]
        for at in range(0, len(rows), 64):
            some = rows[at : at + 64]
            tokens, lengths = padded([ids[n] for n in some], caption, device)
            no_tokens, no_lengths = padded([empty] * len(some), caption, device)
            x = torch.cat([noise_of(seeds[n], size) for n in some]).to(device)
            layout = Layout([(len(some), x.shape[2], x.shape[3], caption)], device)
            sigmas = torch.cat([shifted(torch.linspace(1, 1 / steps, steps)), torch.zeros(1)]).to(device)
            for now, after in zip(sigmas, sigmas[1:]):
                time = (1 - now).expand(len(some))
                (change,) = model([x], time, tokens, lengths, layout)
                if guidance:
                    change = change + guidance * (change - model([x], time, no_tokens, no_lengths, layout)[0])
                x = x - (after - now) * change
            for n, found in zip(some, x):
                latents[n] = found
    return torch.stack(latents)


def decode(vae: Autoencoder, latents: Tensor) -> Tensor:
    """Pictures [n, 3, h, w] in 0..1 of sampled latents, some at a time."""
    return torch.cat([vae.decode(some) for some in latents.split(16)])
