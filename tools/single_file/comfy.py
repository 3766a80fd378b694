"""ComfyUI's quantised layers, made and dequantised by comfy-kitchen in float32."""

from __future__ import annotations

import json

import torch
from comfy_kitchen.backends.eager import quantization as kitchen
from comfy_kitchen.tensor.int8_utils import _build_hadamard, _rotate_weight

from base import Tensors

F32 = torch.float32
#: Columns that an int8 layer with `convrot` rotates together.
GROUP = 64


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def fp8(w: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The codes, the scale of the matrix, and the values."""
    scale = w.abs().amax() / torch.finfo(dtype).max
    codes = (w / scale).clamp(torch.finfo(dtype).min, torch.finfo(dtype).max).to(dtype)
    return codes, scale, kitchen.dequantize_per_tensor_fp8(codes, scale, F32)


def quantise(w: torch.Tensor, kind: str) -> tuple[Tensors, dict, torch.Tensor]:
    """The tensors of a layer by their last name, its `comfy_quant`, and the dequantised matrix."""
    n, k = w.shape
    if kind in ("float8_e4m3fn", "float8_e5m2"):
        codes, scale, values = fp8(w, getattr(torch, kind))
        return {"weight": codes, "weight_scale": scale}, {"format": kind}, values
    if kind == "mxfp8":
        codes, scales = kitchen.quantize_mxfp8(w, pad_32x=True)
        values = kitchen.dequantize_mxfp8(codes, scales, F32)[:n, :k]
        return {"weight": codes, "weight_scale": scales.view(torch.uint8)}, {"format": kind}, values
    if kind == "nvfp4":
        scale = w.abs().amax() / (448 * 6)
        codes, scales = kitchen.quantize_nvfp4(w, scale, pad_16x=True)
        values = kitchen.dequantize_nvfp4(codes, scale, scales, F32)[:n, :k]
        return {"weight": codes, "weight_scale": scales, "weight_scale_2": scale}, {"format": kind}, values
    if kind == "int8_tensorwise":
        codes, scale = kitchen.quantize_int8_tensorwise(w)
        return {"weight": codes, "weight_scale": scale}, {"format": kind}, kitchen.dequantize_int8_simple(codes, scale)
    if kind == "int8_rows":
        codes, scale = kitchen.quantize_int8_rowwise(w)
        values = kitchen.dequantize_int8_simple(codes, scale)
        return {"weight": codes, "weight_scale": scale}, {"format": "int8_tensorwise"}, values
    if kind == "int8_convrot":
        # Scales that are powers of two make the sums of the rotation exact in any order.
        rotated = _rotate_weight(w, _build_hadamard(GROUP), GROUP)
        scale = torch.exp2(torch.ceil(torch.log2(rotated.abs().amax(dim=-1, keepdim=True) / 127)))
        codes = (rotated / scale).round().clamp(-128, 127).to(torch.int8)
        values = kitchen.dequantize_int8_convrot_weight(codes, scale, GROUP)
        conf = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": GROUP}
        return {"weight": codes, "weight_scale": scale}, conf, values
    raise ValueError(kind)


def as_tensor(conf: dict) -> torch.Tensor:
    """A `comfy_quant` tensor: JSON in bytes."""
    return torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8)


def quantised(tensors: Tensors, kinds: dict[str, str]) -> tuple[Tensors, dict[str, dict], Tensors]:
    """A transformer in ComfyUI's spelling with some layers quantised: the file's tensors, each
    layer's `comfy_quant`, and the dequantised matrices."""
    out, confs, values = dict(tensors), {}, {}
    for layer, kind in kinds.items():
        parts, confs[layer], values[f"{layer}.weight"] = quantise(tensors[f"{layer}.weight"].to(F32), kind)
        out.update({f"{layer}.{tail}": tensor for tail, tensor in parts.items()})
    return out, confs, values


def fp8_scaled(tensors: Tensors, layers: list[str], dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    """The older spelling: a marker, and `scale_weight` beside each weight."""
    out, values = dict(tensors), {}
    out["scaled_fp8"] = torch.zeros(2, dtype=dtype)
    for i, layer in enumerate(layers):
        out[f"{layer}.weight"], out[f"{layer}.scale_weight"], values[f"{layer}.weight"] = fp8(
            tensors[f"{layer}.weight"].to(F32), dtype
        )
        if i % 2 == 0:
            out[f"{layer}.scale_input"] = torch.tensor(1.0)
    return out, values
