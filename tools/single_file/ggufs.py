"""GGUF files, written and dequantised by the package `gguf`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize

from base import TEXT_CONFIG, Tensors
from spelling import llama_name

#: Bytes of a random block that hold f16 scales, and the largest scale drawn there: the values are
#: then about as large as those of a trained matrix, 0.05.
SCALES = {
    Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,), Type.IQ4_NL: (0,),
    Type.IQ4_XS: (0,),
}  # fmt: skip

LARGEST = {
    Type.Q2_K: 5e-3, Type.Q3_K: 1e-3, Type.Q4_K: 2e-4, Type.Q5_K: 1e-4, Type.Q6_K: 5e-5, Type.IQ4_NL: 1e-3,
    Type.IQ4_XS: 5e-5,
}  # fmt: skip


def random_blocks(kind: Type, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Random bytes with scales that give values of about the size of a weight: `gguf` dequantises
    these types, and does not quantise them."""
    elements, size = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // elements, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scales = (rng.uniform(0.5, 1.0, blocks.shape[:-1]) * LARGEST[kind]).astype("<f2")
        blocks[..., at : at + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


class File:
    """A GGUF file in the making, with the values that its tensors have."""

    def __init__(self, path: Path, architecture: str | None):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = GGUFWriter(path, architecture or "none")
        if architecture is None:
            self.writer.kv_data[0].pop("general.architecture")
        self.values: Tensors = {}

    def add(self, name: str, tensor: torch.Tensor, kind: Type, stored_shape: tuple[int, ...] | None = None) -> None:
        """A tensor in a type; `stored_shape` reshapes it, and its own shape goes into the metadata
        as ComfyUI-GGUF reads it."""
        array = tensor.to(torch.float32).numpy()
        shape = array.shape
        if stored_shape is not None:
            array = array.reshape(stored_shape)
            self.writer.add_array(f"comfy.gguf.orig_shape.{name}", list(shape))
        if kind == Type.F32:
            data = values = array
        elif kind == Type.F16:
            data = array.astype(np.float16)
            values = data.astype(np.float32)
        else:
            random = kind in SCALES
            data = random_blocks(kind, array.shape, len(name)) if random else quantize(array, kind)
            values = dequantize(data, kind)
        self.writer.add_tensor(name, data, raw_dtype=kind)
        self.values[name] = torch.from_numpy(values.reshape(shape).copy())

    def close(self) -> None:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def transformer(
    path: Path, tensors: Tensors, kinds: dict[str, Type], architecture: str | None, prefix: str, vectors: Type
) -> Tensors:
    """A transformer in ComfyUI's spelling. Returns the values of the tensors in `kinds`; other
    matrices are BF16, and the timestep's embedder Q4_0, which holds its values."""
    file = File(path, architecture)
    for name, tensor in sorted(tensors.items()):
        if name in kinds:
            kind = kinds[name]
        elif tensor.ndim == 2 and name.startswith("t_embedder"):
            kind = Type.Q4_0
        else:
            kind = Type.BF16 if tensor.ndim == 2 else vectors
        if vectors == Type.F32 and name.endswith("pad_token"):
            tensor = tensor[0]
        reshape = kinds.get(name) == Type.Q8_0 and name == "cap_embedder.1.weight"
        file.add(f"{prefix}{name}", tensor, kind, (tensor.numel() // 256, 256) if reshape else None)
        if name not in kinds:
            assert torch.equal(file.values[f"{prefix}{name}"], tensor.to(torch.float32)), name
    file.close()
    return {name: file.values[f"{prefix}{name}"] for name in kinds}


def text_encoder(path: Path, tensors: Tensors, kinds: list[Type], tokenizer: Path) -> Tensors:
    """Qwen3 with its tokenizer, in llama.cpp's spelling. Returns the values of all tensors; the
    types take turns."""
    file = File(path, "qwen3")
    w, c = file.writer, TEXT_CONFIG
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(40960)
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_key_length(c["head_dim"])
    w.add_value_length(c["head_dim"])
    w.add_rope_freq_base(c["rope_theta"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    add_tokenizer(w, json.loads(tokenizer.read_text()), c["vocab_size"])
    matrices = 0
    for name, tensor in sorted(tensors.items()):
        kind = Type.F32
        if tensor.ndim == 2:
            kind, matrices = kinds[matrices % len(kinds)], matrices + 1
        file.add(llama_name(name), tensor, kind)
    file.close()
    return {name: file.values[llama_name(name)] for name in tensors}


def add_tokenizer(w: GGUFWriter, tokenizer: dict, size: int) -> None:
    """The tokens, types and merges as llama.cpp's converter writes them: ids without a token are
    unused."""
    tokens = {i: (token, TokenType.NORMAL) for token, i in tokenizer["model"]["vocab"].items()}
    for token in tokenizer["added_tokens"]:
        tokens[token["id"]] = (token["content"], TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED)
    listed = [tokens.get(i, (f"[PAD{i}]", TokenType.UNUSED)) for i in range(size)]
    by_name = {token: i for i, (token, _) in tokens.items()}
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list([token for token, _ in listed])
    w.add_token_types([kind for _, kind in listed])
    w.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    w.add_eos_token_id(by_name["<|im_end|>"])
    w.add_pad_token_id(by_name["<|endoftext|>"])
    w.add_add_bos_token(False)
