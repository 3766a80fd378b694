"""The small random model that every export is made from, in the names of diffusers and transformers.

Its configuration is what the published models have wherever shapes do not tell, so that a file
without a `config.json` gives the same model. Matrices hold values that float8 e4m3 holds exactly,
so that some tensors may be stored in 8 bits everywhere. No layer that an export quantises depends
on another one."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
BF16, F8, F32 = torch.bfloat16, torch.float8_e4m3fn, torch.float32

#: The transformer's files: what stays as it is in every export, and the rest.
KEPT, REST = (f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2))


@dataclass(frozen=True)
class Sizes:
    """The sizes that decide the shapes of a transformer."""

    dim: int
    head: int
    caption: int = 64
    layers: int = 1
    refiners: int = 1
    latents: int = 16

    @property
    def ffn(self) -> int:
        return int(self.dim / 3 * 8)

    @property
    def adaln(self) -> int:
        return min(self.dim, 256)

    @property
    def patch(self) -> int:
        return 4 * self.latents


SMALL = Sizes(dim=64, head=32)
#: The smallest width whose matrices have columns in multiples of 256, as K-quants demand.
WIDE = Sizes(dim=768, head=64)


class Draw:
    """Random tensors, each from its own seed, so that one more tensor does not change the others."""

    def __init__(self, seed: int):
        self.seed = seed

    def normal(self, name: str, *shape: int) -> torch.Tensor:
        seed = [self.seed, *name.encode()]
        return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))

    def matrix(self, name: str, *shape: int, gain: float = 1.0) -> torch.Tensor:
        fan_in = int(np.prod(shape[1:]))
        drawn = self.normal(name, *shape) * (gain / fan_in**0.5)
        return drawn.to(F8).to(F32)

    def norm(self, name: str, size: int) -> torch.Tensor:
        return (1 + 0.2 * self.normal(name, size)).to(BF16).to(F32)

    def bias(self, name: str, size: int) -> torch.Tensor:
        return (0.1 * self.normal(name, size)).to(BF16).to(F32)

    def codes(self, name: str, rows: int, columns: int, step: float) -> torch.Tensor:
        """Multiples of `step` from -8 to 7, with a -8 in each run of 32: Q4_0 holds them exactly, and
        so does float8 e4m3."""
        seed = [self.seed, *name.encode()]
        codes = np.random.default_rng(seed).integers(-8, 8, (rows, columns // 32, 32))
        codes[:, :, 0] = -8
        return torch.from_numpy((codes * step).reshape(rows, columns).astype(np.float32))


def transformer(sizes: Sizes, draw: Draw) -> Tensors:
    d, hidden, adaln = sizes.dim, sizes.ffn, sizes.adaln
    t: Tensors = {}

    def linear(name: str, n: int, k: int, gain: float = 1.0) -> None:
        t[f"{name}.weight"] = draw.matrix(f"{name}.weight", n, k, gain=gain)
        t[f"{name}.bias"] = draw.bias(f"{name}.bias", n)

    for stack, count in [("layers", sizes.layers), ("noise_refiner", sizes.refiners), ("context_refiner", sizes.refiners)]:
        for i in range(count):
            block = f"{stack}.{i}"
            for name in ["to_q", "to_k", "to_v", "to_out.0"]:
                name = f"{block}.attention.{name}.weight"
                t[name] = draw.matrix(name, d, d)
            for name, n, k in [("w1", hidden, d), ("w2", d, hidden), ("w3", hidden, d)]:
                name = f"{block}.feed_forward.{name}.weight"
                t[name] = draw.matrix(name, n, k)
            for name in ["norm_q", "norm_k"]:
                name = f"{block}.attention.{name}.weight"
                t[name] = draw.norm(name, sizes.head)
            for name in ["attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"]:
                t[f"{block}.{name}.weight"] = draw.norm(f"{block}.{name}.weight", d)
            if stack != "context_refiner":
                linear(f"{block}.adaLN_modulation.0", 4 * d, adaln)
    for name, n, k, step in [("mlp.0", 1024, 256, 2**-5), ("mlp.2", adaln, 1024, 2**-7)]:
        t[f"t_embedder.{name}.weight"] = draw.codes(f"t_embedder.{name}.weight", n, k, step)
        t[f"t_embedder.{name}.bias"] = draw.bias(f"t_embedder.{name}.bias", n)
    t["cap_embedder.0.weight"] = draw.norm("cap_embedder.0.weight", sizes.caption)
    linear("cap_embedder.1", d, sizes.caption)
    linear("all_x_embedder.2-1", d, sizes.patch)
    linear("all_final_layer.2-1.linear", sizes.patch, d)
    linear("all_final_layer.2-1.adaLN_modulation.1", d, adaln)
    for name in ["x_pad_token", "cap_pad_token"]:
        t[name] = draw.normal(name, 1, d).to(BF16).to(F32)
    return t


def transformer_config(sizes: Sizes) -> dict[str, Any]:
    sixteenth = sizes.head // 16
    return {
        "_class_name": "ZImageTransformer2DModel", "all_patch_size": [2], "all_f_patch_size": [1],
        "in_channels": sizes.latents, "dim": sizes.dim, "n_layers": sizes.layers, "n_refiner_layers": sizes.refiners,
        "n_heads": sizes.dim // sizes.head, "n_kv_heads": sizes.dim // sizes.head, "norm_eps": 1e-5, "qk_norm": True,
        "cap_feat_dim": sizes.caption, "rope_theta": 256.0, "t_scale": 1000.0,
        "axes_dims": [4 * sixteenth, 6 * sixteenth, 6 * sixteenth], "axes_lens": [1536, 512, 512],
    }  # fmt: skip


TEXT_CONFIG = {
    "architectures": ["Qwen3Model"], "model_type": "qwen3", "hidden_act": "silu", "vocab_size": 640, "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True,
}  # fmt: skip


def text_encoder(draw: Draw) -> Tensors:
    c = TEXT_CONFIG
    d, hidden, head = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    query, key = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    t = {"embed_tokens.weight": draw.matrix("embed_tokens.weight", c["vocab_size"], d, gain=4.0)}
    for i in range(c["num_hidden_layers"]):
        for name, n, k in [
            ("self_attn.q_proj", query, d), ("self_attn.k_proj", key, d), ("self_attn.v_proj", key, d),
            ("self_attn.o_proj", d, query), ("mlp.gate_proj", hidden, d), ("mlp.up_proj", hidden, d),
            ("mlp.down_proj", d, hidden),
        ]:  # fmt: skip
            name = f"layers.{i}.{name}.weight"
            t[name] = draw.matrix(name, n, k)
        for name, size in [
            ("self_attn.q_norm", head), ("self_attn.k_norm", head), ("input_layernorm", d),
            ("post_attention_layernorm", d),
        ]:  # fmt: skip
            t[f"layers.{i}.{name}.weight"] = draw.norm(f"layers.{i}.{name}.weight", size)
    t["norm.weight"] = draw.norm("norm.weight", d)
    return t


VAE_CONFIG = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "in_channels": 3, "out_channels": 3, "latent_channels": 16,
    "block_out_channels": [32, 32], "layers_per_block": 1, "norm_num_groups": 32, "scaling_factor": 0.3611,
    "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": True,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
}  # fmt: skip


def vae(draw: Draw) -> Tensors:
    """The decoder alone, which is all that drawing needs. Its two levels differ in values only."""
    t: Tensors = {}
    c = 32

    def conv(name: str, n: int, k: int, *side: int) -> None:
        t[f"{name}.weight"] = draw.matrix(f"{name}.weight", n, k, *side)
        t[f"{name}.bias"] = draw.bias(f"{name}.bias", n)

    def norm(name: str) -> None:
        t[f"{name}.weight"], t[f"{name}.bias"] = draw.norm(f"{name}.weight", c), draw.bias(f"{name}.bias", c)

    def resnet(name: str) -> None:
        for i in ["1", "2"]:
            norm(f"{name}.norm{i}")
            conv(f"{name}.conv{i}", c, c, 3, 3)

    conv("decoder.conv_in", c, VAE_CONFIG["latent_channels"], 3, 3)
    for i in range(2):
        resnet(f"decoder.mid_block.resnets.{i}")
        for j in range(2):
            resnet(f"decoder.up_blocks.{i}.resnets.{j}")
    norm("decoder.mid_block.attentions.0.group_norm")
    for name in ["to_q", "to_k", "to_v", "to_out.0"]:
        conv(f"decoder.mid_block.attentions.0.{name}", c, c)
    conv("decoder.up_blocks.0.upsamplers.0.conv", c, c, 3, 3)
    norm("decoder.conv_norm_out")
    conv("decoder.conv_out", 3, c, 3, 3)
    return t


def is_rest(name: str) -> bool:
    """True for the matrices that some export quantises: they have a file of their own."""
    return (name.startswith("layers.") or name == "cap_embedder.1.weight") and is_matrix(name)


def is_matrix(name: str) -> bool:
    return name.endswith(".weight") and "norm" not in name and name != "cap_embedder.0.weight"


def compact(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor outside of the rest in 8 bits where they hold its values, which keeps files small."""
    small = tensor.to(F8 if is_matrix(name) and tensor.ndim == 2 else BF16)
    assert torch.equal(small.to(F32), tensor), name
    return small


def as_bf16(tensor: torch.Tensor) -> torch.Tensor:
    assert torch.equal(tensor.to(BF16).to(F32), tensor)
    return tensor.to(BF16)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in sorted(tensors.items())}, path, metadata or {"format": "pt"})


def write_transformer(folder: Path, tensors: Tensors, sizes: Sizes) -> None:
    kept = {name: compact(name, t) for name, t in tensors.items() if not is_rest(name)}
    rest = {name: as_bf16(t) for name, t in tensors.items() if is_rest(name)}
    write(folder / KEPT, kept)
    write(folder / REST, rest)
    index = {name: REST if name in rest else KEPT for name in sorted(tensors)}
    size = sum(t.nbytes for t in [*kept.values(), *rest.values()])
    write_json(
        folder / "diffusion_pytorch_model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": index}
    )
    write_json(folder / "config.json", transformer_config(sizes))


def write_folder(folder: Path, golden: Path, parts: dict[str, Tensors], sizes: Sizes) -> None:
    """The model as a diffusers folder, with the tokenizer and scheduler of a golden model."""
    for name in ["tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(golden / name, folder / name)
    index = json.loads((golden / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "Qwen3Model"]
    write_json(folder / "model_index.json", index)
    write_transformer(folder / "transformer", parts["transformer"], sizes)
    write(folder / "text_encoder" / "model.safetensors", {n: as_bf16(t) for n, t in parts["text_encoder"].items()})
    write_json(folder / "text_encoder" / "config.json", TEXT_CONFIG)
    write(folder / "vae" / "diffusion_pytorch_model.safetensors", {n: as_bf16(t) for n, t in parts["vae"].items()})
    write_json(folder / "vae" / "config.json", VAE_CONFIG)
