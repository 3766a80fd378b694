"""Names in the spellings of ComfyUI, llama.cpp and the latent-diffusion code."""

from __future__ import annotations

import re

import torch

from base import Tensors

#: diffusers → ComfyUI: the pairs of diffusers' own converter, turned around.
COMFY = [
    ("all_final_layer.2-1.", "final_layer."),
    ("all_x_embedder.2-1.", "x_embedder."),
    (".attention.to_out.0.", ".attention.out."),
    (".attention.norm_q.", ".attention.q_norm."),
    (".attention.norm_k.", ".attention.k_norm."),
]
LLAMA = [
    ("layers.", "blk."), ("input_layernorm", "attn_norm"), ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"), ("embed_tokens", "token_embd"),
]  # fmt: skip
LDM = [
    (".mid_block.resnets.0.", ".mid.block_1."), (".mid_block.resnets.1.", ".mid.block_2."),
    (".mid_block.attentions.0.", ".mid.attn_1."), (".resnets.", ".block."), (".upsamplers.0.", ".upsample."),
    (".conv_norm_out.", ".norm_out."), (".group_norm.", ".norm."), (".to_q.", ".q."), (".to_k.", ".k."),
    (".to_v.", ".v."), (".to_out.0.", ".proj_out."),
]  # fmt: skip


def renamed(name: str, pairs: list[tuple[str, str]]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def comfy_name(name: str) -> str:
    """The name in ComfyUI of a layer's tensor; queries, keys and values have one name."""
    return re.sub(r"\.attention\.to_[qkv]\.", ".attention.qkv.", renamed(name, COMFY))


def comfy(tensors: Tensors) -> Tensors:
    """A transformer in ComfyUI's spelling, whose rows of `qkv` are those of q, k and v."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if ".attention.to_q." in name:
            parts = [tensors[name.replace("to_q", part)] for part in ["to_q", "to_k", "to_v"]]
            tensor = torch.cat([part.view(torch.uint8) if part.dtype.itemsize == 1 else part for part in parts]).view(tensor.dtype)
        elif re.search(r"\.attention\.to_[kv]\.", name):
            continue
        out[comfy_name(name)] = tensor
    return out


def separate(name: str, tensor: torch.Tensor) -> Tensors:
    """A tensor in ComfyUI's spelling as diffusers' tensors."""
    if ".attention.qkv." in name:
        return {name.replace(".qkv.", f".{part}."): t for part, t in zip(["to_q", "to_k", "to_v"], tensor.chunk(3))}
    return {renamed(name, [(new, old) for old, new in COMFY]): tensor}


def llama_name(name: str) -> str:
    return "output_norm.weight" if name == "norm.weight" else renamed(name, LLAMA)


def ldm(tensors: Tensors, levels: int) -> Tensors:
    """An autoencoder in the latent-diffusion spelling: levels in the other order, and 1×1
    convolutions in the attention."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        new = re.sub(r"\.up_blocks\.(\d+)\.", lambda level: f".up.{levels - 1 - int(level[1])}.", renamed(name, LDM))
        if ".attn_1." in new and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        out[new] = tensor
    return out
