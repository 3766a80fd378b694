"""Pictures with the latents that the transformer makes for them. Used by vae.py."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from autoencoder import Autoencoder
from captions import Scene, Writer
from export import read_weights
from networks import TextToImage
from pictures import Album
from placement import numbers_of
from sampling import noise_of, sample

TOGETHER = 64


class Samples:
    """For each size, scenes drawn as bytes [n, 3, h, w] and sampled latents [n, 16, h/8, w/8] in
    the decoder's units. Every scene has a caption: an empty one describes no picture."""

    def __init__(self, folder: Path, vae: Autoencoder, album: Album, writer: Writer, counts: dict[tuple[int, int], int]):
        device = album.device
        model = TextToImage()
        read_weights(folder, model)
        model.to(device)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        self.pictures: dict[tuple[int, int], Tensor] = {}
        self.latents: dict[tuple[int, int], Tensor] = {}
        seed = 0

        def captioned(size: tuple[int, int], seed: int) -> Scene:
            numbers = numbers_of(noise_of(seed, size))[0].double().numpy()
            while not (scene := writer.scene(*size, numbers)).caption:
                pass
            return scene

        for size, count in counts.items():
            pictures, latents = [], []
            for at in range(0, count, TOGETHER):
                seeds = range(seed, seed := seed + min(TOGETHER, count - at))
                scenes = [captioned(size, s) for s in seeds]
                pictures += [(album.draw([scene]) * 255).round().byte() for scene in scenes]
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    latents.append(sample(model, tokenizer, [scene.caption for scene in scenes], size, list(seeds)))
            self.pictures[size] = torch.cat(pictures)
            self.latents[size] = torch.cat(latents).float() / vae.scale + vae.shift

    def draw(self, size: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
        """Random ones: pictures in 0..1 and latents."""
        rows = torch.randint(len(self.latents[size]), (count,), device=self.latents[size].device)
        return self.pictures[size][rows].float() / 255, self.latents[size][rows]
