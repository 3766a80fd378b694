"""Makes tests/goldens/{single,sharded}_tiles.{json,safetensors}: the results of diffusers' tiled
autoencoder in float32.

    python tools/goldens/tiles.py

Run it again when the models of tests/goldens change. The versions are those of requirements.txt.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from safetensors.torch import save_file

from make import ROOT, load, randn

#: The side of a tile in pixels, and height and width of the picture: a tile of one latent row at
#: the bottom; barely larger than a tile, in one direction only; ends that are no multiple of the
#: stride; many tiles of the minimum size.
CASES = [(64, 104, 80), (64, 72, 64), (64, 40, 136), (32, 64, 72)]


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in ("single", "sharded"):
        pipe = load(ROOT / name)
        vae, save = pipe.vae, {}
        scale, shift = vae.config.scaling_factor, vae.config.shift_factor
        vae.enable_tiling()
        assert vae.tile_overlap_factor == 0.25
        for i, (tile, height, width) in enumerate(CASES):
            vae.tile_sample_min_size, vae.tile_latent_min_size = tile, tile // 8
            latents = randn(400 + i, 1, vae.config.latent_channels, height // 8, width // 8)
            z = latents / scale + shift
            decoded = vae.decode(z, return_dict=False)[0]
            rng = np.random.Generator(np.random.PCG64(500 + i))
            rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            # The call skips the image processor's resize to multiples of 16.
            image = pipe.image_processor.normalize(torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255)
            mode = vae.encode(image).latent_dist.mode()
            # The goldens must distinguish tiled results from untiled ones.
            vae.disable_tiling()
            whole = vae.decode(z, return_dict=False)[0], vae.encode(image).latent_dist.mode()
            vae.enable_tiling()
            apart = [float((a - b).norm() / b.norm()) for a, b in zip((decoded, mode), whole)]
            print(name, (tile, height, width), "differs from the whole picture by", apart)
            assert min(apart) > 1e-2
            save[f"{i}.decode.latents"], save[f"{i}.decode.image"] = latents, decoded.permute(0, 2, 3, 1)
            save[f"{i}.encode.rgb"], save[f"{i}.encode.latents"] = torch.from_numpy(rgb), (mode - shift) * scale
        cases = [{"tile": tile, "height": height, "width": width} for tile, height, width in CASES]
        (ROOT / f"{name}_tiles.json").write_text(json.dumps(cases, indent=1) + "\n")
        save_file({key: t.contiguous() for key, t in sorted(save.items())}, ROOT / f"{name}_tiles.safetensors")


if __name__ == "__main__":
    main()
