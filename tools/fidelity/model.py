"""A random ZImagePipeline of the real configuration in which every tensor matters, with or without
outlier channels."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import ZImagePipeline

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools" / "goldens"))

from full_width import TEXT_ENCODER, TRANSFORMER, VAE, pipeline  # noqa: E402
from models import SINGLE  # noqa: E402

#: A tiny model in Z-Image's configuration, whose rows are whole blocks of every storage format.
SMALL_TRANSFORMER = TRANSFORMER | dict(dim=768, n_heads=6, n_kv_heads=6, n_layers=3, n_refiner_layers=1, cap_feat_dim=256)
SMALL_TEXT_ENCODER = TEXT_ENCODER | dict(
    hidden_size=256, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, intermediate_size=512,
    vocab_size=4608,
)  # fmt: skip

#: The parameters of a network by name.
Named = Iterable[tuple[str, torch.Tensor]]

#: With outliers a residual stream is larger by this factor, which its norms cancel,
SCALE = 20.0
#: and its outlier channels are larger than its others by this factor.
RATIO = 50.0
#: The same factor in the autoencoder, whose stream has no scale of its own.
VAE_RATIO = 2000.0


def open_model(folder: Path, small: bool, outliers: bool, device: str) -> ZImagePipeline:
    """The model in `folder` in bf16, created if it does not exist."""
    if not folder.exists():
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        pipe = build(small, outliers, device)
        pipe.save_pretrained(unfinished)
        unfinished.rename(folder)
    else:
        pipe = ZImagePipeline.from_pretrained(folder, dtype=torch.bfloat16).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def build(small: bool, outliers: bool, device: str) -> ZImagePipeline:
    """Creates the model on the device itself, in bf16."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        if small:
            pipe = pipeline(SMALL_TRANSFORMER, SMALL_TEXT_ENCODER, SINGLE.vae)
        else:
            pipe = pipeline(TRANSFORMER, TEXT_ENCODER, VAE)
    torch.set_default_dtype(kept)
    for network in (pipe.transformer, pipe.text_encoder, pipe.vae):
        network.eval().requires_grad_(False)
    if outliers:
        text_channels = text_outliers(pipe.text_encoder)
        transformer_outliers(pipe.transformer, text_channels)
        vae_outliers(pipe.vae)
    return pipe


def matrices(parameters: Named) -> list[str]:
    """The matrices of attention and feed-forward layers among a network's parameters."""
    starts = ("layers.", "noise_refiner.", "context_refiner.")
    return [n for n, value in parameters if value.ndim == 2 and n.startswith(starts) and "adaLN" not in n]


def outlier_channels(width: int) -> torch.Tensor:
    """The four outlier channels of a residual stream."""
    return torch.arange(4) * (width // 4) + width // 8


def enlarge(weight: torch.Tensor, channels: torch.Tensor) -> None:
    """Enlarges the writes to a residual stream (rows of a linear, a norm's weight), most of all to
    `channels`."""
    weight *= SCALE
    weight[channels] *= RATIO


def compensate(weight: torch.Tensor, channels: torch.Tensor, ratio: float = RATIO) -> None:
    """Adjusts the reads of a normed stream (a norm's weight, columns of a linear): all channels
    weigh alike, and as much as without outliers, which the norm divides by."""
    weight *= (1 + ratio**2 * len(channels) / weight.shape[-1]) ** 0.5
    weight[..., channels] /= ratio


def swiglu_outliers(gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> None:
    """Makes four hidden values reach the thousands; the next linear weighs them like the others."""
    hidden = outlier_channels(len(gate))
    gate[hidden] *= 4
    up[hidden] *= 50
    down[:, hidden] /= 200


def text_outliers(encoder: torch.nn.Module) -> torch.Tensor:
    """Makes channels of the residual stream reach the thousands; returns the channels."""
    channels = outlier_channels(encoder.config.hidden_size)
    enlarge(encoder.embed_tokens.weight.T, channels)
    for layer in encoder.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            compensate(norm.weight, channels)
        for branch in (layer.self_attn.o_proj, layer.mlp.down_proj):
            enlarge(branch.weight, channels)
        swiglu_outliers(layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight)
    return channels


def transformer_outliers(transformer: torch.nn.Module, text_channels: torch.Tensor) -> None:
    """The same in image and caption tokens; the caption's embedder reads features with outliers."""
    channels = outlier_channels(transformer.config.dim)
    compensate(transformer.cap_embedder[0].weight, text_channels)
    for embedder in (transformer.cap_embedder[1], *transformer.all_x_embedder.values()):
        enlarge(embedder.weight, channels)
        enlarge(embedder.bias, channels)
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        enlarge(token[0], channels)
    for block in (*transformer.noise_refiner, *transformer.context_refiner, *transformer.layers):
        for norm in (block.attention_norm1, block.ffn_norm1):
            compensate(norm.weight, channels)
        for norm in (block.attention_norm2, block.ffn_norm2):
            enlarge(norm.weight, channels)
        feed_forward = block.feed_forward
        swiglu_outliers(feed_forward.w1.weight, feed_forward.w3.weight, feed_forward.w2.weight)
    for final in transformer.all_final_layer.values():
        compensate(final.linear.weight, channels)


def vae_outliers(vae: torch.nn.Module) -> None:
    """Makes two channels of one group reach the thousands, from the decoder's first convolution to
    its first upsampling."""
    decoder = vae.decoder
    group = decoder.conv_in.out_channels // vae.config.norm_num_groups
    channels = torch.arange(2)
    decoder.conv_in.weight[channels] *= VAE_RATIO
    first = decoder.up_blocks[0]
    norms = [resnet.norm1 for resnet in (*decoder.mid_block.resnets, *first.resnets)]
    for norm in (*norms, *(attention.group_norm for attention in decoder.mid_block.attentions)):
        compensate(norm.weight[:group], channels, VAE_RATIO)
    for upsampler in first.upsamplers:
        upsampler.conv.weight[:, channels] /= VAE_RATIO
