"""Compares zimage with diffusers on a random model of Z-Image's real widths, one layer of each
kind.

    cargo build --release && python tools/goldens/full_width.py

The committed goldens are narrow. This model has the transformer's 3840 (wider than its adaLN
input), heads of 128, Qwen3's 2560 with its 151,936 embeddings, and the whole autoencoder. It is
written to a temporary folder, takes 2.3 GB there and 8 GB of memory for about a minute, and is not
committed. Both programs compute in float32 on the same bf16 weights.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from PIL import Image
from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

from make import generator, load

ROOT = Path(__file__).resolve().parents[2]
PROMPT, NEGATIVE, SEED = "a red fox in the snow", "blurry", 5
WIDTH, HEIGHT, STEPS, GUIDANCE = 192, 128, 3, 2.0


#: The parts of Z-Image-Turbo; an omitted setting has the default of the class.
TRANSFORMER = dict(n_layers=30, n_refiner_layers=2, axes_dims=[32, 48, 48], axes_lens=[1536, 512, 512])
TEXT_ENCODER = dict(
    hidden_size=2560, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
    intermediate_size=9728, vocab_size=151_936, rope_theta=1e6,
)  # fmt: skip
VAE = dict(
    latent_channels=16, block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32,
    scaling_factor=0.3611, shift_factor=0.1159,
)  # fmt: skip


def cast(network: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Stores the parameters as `dtype`. Buffers, such as RoPE frequencies, stay float32."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    return network


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Sets random weights that all matter and preserve the scale of activations, rounded to
    bf16."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 and "norm" in name and name.endswith("weight"):
            parameter.data.uniform_(0.5, 1.5)
        elif parameter.ndim == 1:
            parameter.data.normal_(0, 0.1)
        elif "pad_token" in name or "embed_tokens" in name:
            parameter.data.normal_(0, 1)
        else:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5)
    return cast(network, torch.bfloat16)


def autoencoder(sizes: dict[str, Any]) -> AutoencoderKL:
    """The autoencoder in FLUX.1's architecture, without the convolutions around the latents."""
    levels = len(sizes["block_out_channels"])
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        use_quant_conv=False, use_post_quant_conv=False, **sizes,
    )  # fmt: skip


def pipeline(transformer: dict[str, Any], text_encoder: dict[str, Any], vae: dict[str, Any]) -> ZImagePipeline:
    """A random model of these sizes with the tokenizer of the embedded default, on torch's default
    device."""
    torch.manual_seed(0)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=randomised(autoencoder(vae)),
        text_encoder=randomised(Qwen3Model(Qwen3Config(**text_encoder))),
        tokenizer=AutoTokenizer.from_pretrained(ROOT / "models" / "emoji" / "tokenizer"),
        transformer=randomised(ZImageTransformer2DModel(**transformer)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "zimage")
    parser.add_argument("--backend", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, picture = Path(temporary) / "model", Path(temporary) / "picture.png"
        one_of_each = TRANSFORMER | dict(n_layers=1, n_refiner_layers=1)
        pipeline(one_of_each, TEXT_ENCODER | dict(num_hidden_layers=2), VAE).save_pretrained(folder)
        reference = load(folder)(
            PROMPT, negative_prompt=NEGATIVE, width=WIDTH, height=HEIGHT, num_inference_steps=STEPS,
            guidance_scale=GUIDANCE, generator=generator(SEED),
        ).images[0]
        subprocess.run(
            [options.binary, "generate", PROMPT, "--negative", NEGATIVE, "--model", folder, "--width", str(WIDTH),
             "--height", str(HEIGHT), "--steps", str(STEPS), "--guidance", str(GUIDANCE), "--seed", str(SEED),
             "--backend", options.backend, "-o", picture],
            check=True,
        )
        ours = np.asarray(Image.open(picture)).astype(int)
    difference = np.abs(ours - np.asarray(reference.convert("RGB")).astype(int))
    print(f"largest difference {difference.max()} of 255, {(difference > 0).mean():.2%} of the values differ")
    if difference.max() > 1:
        raise SystemExit("zimage and diffusers draw different pictures")


if __name__ == "__main__":
    main()
