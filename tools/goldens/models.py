"""Two small random Z-Image models in the diffusers folder layout. They differ in every property
that may matter to a loader."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import diffusers
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

import tokens

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


@dataclass
class Spec:
    """One model: the configs of its parts, the element type of each tensor, and the number of
    shards."""

    name: str
    seed: int
    bpe_tokens: int
    baked_tokenizer: bool
    transformer: dict[str, Any]
    text: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    dtype: Callable[[str, str], torch.dtype]
    causal_lm: bool
    transformers_4: bool
    shards: dict[str, int] = field(default_factory=dict)


def _single_dtype(part: str, name: str) -> torch.dtype:
    """float32, with some kinds of tensors in 16 bits: one file mixes element types."""
    if "adaLN" in name or "embed_tokens" in name or "lm_head" in name:
        return F16
    return BF16 if "t_embedder" in name or "feed_forward" in name or ".mlp." in name else F32


SINGLE = Spec(
    name="single",
    seed=1,
    bpe_tokens=600,
    baked_tokenizer=False,
    transformer=dict(
        all_patch_size=[2], all_f_patch_size=[1], in_channels=16, dim=64, n_layers=3, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, norm_eps=1e-5, qk_norm=True, cap_feat_dim=48, rope_theta=256.0, t_scale=1000.0,
        axes_dims=[8, 12, 12], axes_lens=[768, 48, 64],
    ),
    text=dict(
        hidden_size=48, intermediate_size=100, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=20, rms_norm_eps=1e-6, rope_theta=500000.0, tie_word_embeddings=False, vocab_size=640,
    ),
    vae=dict(
        block_out_channels=[8, 8, 16, 16], layers_per_block=1, latent_channels=16, norm_num_groups=4,
        scaling_factor=0.3611, shift_factor=0.1159,
    ),
    scheduler=dict(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=False),
    dtype=_single_dtype,
    causal_lm=True,
    transformers_4=True,
)  # fmt: skip

SHARDED = Spec(
    name="sharded",
    seed=2,
    bpe_tokens=700,
    baked_tokenizer=True,
    transformer=dict(
        all_patch_size=[2], all_f_patch_size=[1], in_channels=4, dim=60, n_layers=2, n_refiner_layers=2, n_heads=3,
        n_kv_heads=3, norm_eps=1e-3, qk_norm=True, cap_feat_dim=40, rope_theta=100.0, t_scale=500.0,
        axes_dims=[4, 8, 8], axes_lens=[1024, 32, 40],
    ),
    text=dict(
        hidden_size=40, intermediate_size=72, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
        head_dim=16, rms_norm_eps=1e-5, rope_theta=20000.0, tie_word_embeddings=True, vocab_size=728,
    ),
    vae=dict(
        block_out_channels=[12, 12, 18, 18], layers_per_block=2, latent_channels=4, norm_num_groups=6,
        scaling_factor=0.55, shift_factor=-0.21,
    ),
    scheduler=dict(num_train_timesteps=1000, shift=6.0),
    dtype=lambda part, name: F16 if part == "vae" else BF16,
    causal_lm=False,
    transformers_4=False,
    shards={"transformer": 3, "text_encoder": 2},
)  # fmt: skip

SPECS = [SINGLE, SHARDED]


def random_tensor(name: str, shape: torch.Size, rng: np.random.Generator) -> torch.Tensor:
    """Values that keep activations near 1 and make every tensor matter: norms around 1, biases and
    pads that are not 0."""
    normal = rng.standard_normal(tuple(shape))
    if len(shape) == 1 and name.endswith("weight"):
        values = rng.uniform(0.5, 1.5, tuple(shape))
    elif name.endswith("bias"):
        values = 0.3 * normal
    elif "pad_token" in name or "embed_tokens" in name:
        values = normal
    else:
        gain = 1.5 if "adaLN" in name else 0.5 if name == "decoder.conv_out.weight" else 1.0
        values = gain * normal / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def write(spec: Spec, folder: Path) -> None:
    """Writes the whole model folder."""
    tokens.save(folder / "tokenizer", spec.bpe_tokens, spec.baked_tokenizer)
    rng = np.random.Generator(np.random.PCG64(spec.seed))

    levels = len(spec.vae["block_out_channels"])
    vae_config = dict(
        act_fn="silu", down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
        force_upcast=True, in_channels=3, out_channels=3, sample_size=64, latents_mean=None, latents_std=None,
        mid_block_add_attention=True, use_quant_conv=False, use_post_quant_conv=False, **spec.vae,
    )  # fmt: skip
    text_config = _text_config(spec)
    text_class = transformers.Qwen3ForCausalLM if spec.causal_lm else transformers.Qwen3Model
    parts = {
        "text_encoder": text_class(transformers.Qwen3Config(**text_config)),
        "transformer": diffusers.ZImageTransformer2DModel(**spec.transformer),
        "vae": diffusers.AutoencoderKL(**vae_config),
    }
    configs = {"text_encoder": text_config, "transformer": spec.transformer, "vae": vae_config}
    for part, module in parts.items():
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        shapes = {name: t.shape for name, t in module.state_dict().items()}
        weights = {name: random_tensor(name, s, rng).to(spec.dtype(part, name)) for name, s in shapes.items()}
        _save_weights(folder / part, stem, weights, spec.shards.get(part, 1))
        head = {} if part == "text_encoder" else _header(type(module).__name__)
        _save_json(folder / part / "config.json", head | configs[part])

    scheduler = "FlowMatchEulerDiscreteScheduler"
    _save_json(folder / "scheduler" / "scheduler_config.json", _header(scheduler) | spec.scheduler)
    index = {
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", text_class.__name__],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "ZImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _save_json(folder / "model_index.json", _header("ZImagePipeline") | index)


def _header(class_name: str) -> dict[str, str]:
    return {"_class_name": class_name, "_diffusers_version": diffusers.__version__}


def _text_config(spec: Spec) -> dict[str, Any]:
    """The text encoder's config.json, in the spelling of transformers 4 or of 5."""
    end = spec.bpe_tokens
    config = {
        "architectures": ["Qwen3ForCausalLM" if spec.causal_lm else "Qwen3Model"],
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": end, "eos_token_id": end + 2,
        "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 40960,
        "max_window_layers": spec.text["num_hidden_layers"], "model_type": "qwen3", "sliding_window": None,
        "use_cache": True, "use_sliding_window": False, **spec.text,
    }  # fmt: skip
    if spec.transformers_4:
        return config | {"rope_scaling": None, "torch_dtype": "float32", "transformers_version": "4.51.0"}
    theta = config.pop("rope_theta")
    return config | {
        "dtype": "bfloat16",
        "layer_types": ["full_attention"] * spec.text["num_hidden_layers"],
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "transformers_version": transformers.__version__,
    }


def _save_weights(folder: Path, stem: str, weights: dict[str, torch.Tensor], shards: int) -> None:
    """Writes one file, or an index and `shards` files with about as many tensors each."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[dict[str, torch.Tensor]] = [{} for _ in range(shards)]
    for i, (name, tensor) in enumerate(weights.items()):
        files[i * shards // len(weights)][name] = tensor
    where: dict[str, str] = {}
    for i, tensors in enumerate(files):
        file = f"{stem}.safetensors" if shards == 1 else f"{stem}-{i + 1:05}-of-{shards:05}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, file)
    if shards > 1:
        total = sum(t.nbytes for t in weights.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        _save_json(folder / f"{stem}.safetensors.index.json", index)


def _save_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
