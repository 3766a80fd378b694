#!/usr/bin/env python3
"""Writes tests/formats/: blocks of every storage format, and the float32 values that others read from them.

    pip install -r tools/formats/requirements.txt
    tools/formats/make.py

ggml.safetensors has the blocks of GGUF files as `gguf` dequantises them: `<type>.bytes` and `<type>.values`.
scales.safetensors has matrices with scales as the eager backend of `comfy_kitchen` dequantises them:
`<case>.weight`, the tensors of its scales, and `<case>.values` of the true shape.
"""

import pathlib
import warnings

import numpy as np
import torch
from comfy_kitchen.backends.eager import quantization as eager
from comfy_kitchen.float_utils import roundup, to_blocked
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

OUT = pathlib.Path(__file__).parents[2] / "tests" / "formats"
RANDOM = np.random.default_rng(15)

# The offsets of the f16 factors in a block. IQ1_M scatters its own.
FACTORS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0], "IQ1_S": [0], "IQ1_M": [], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0],
    "IQ3_XXS": [0], "IQ3_S": [0], "TQ1_0": [52], "TQ2_0": [64], "MXFP4": [], "NVFP4": [],
}  # fmt: skip
# Zeros, subnormals, the smallest normal, the largest, infinities, NaN.
EDGES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]


def ordinary_factor():
    return np.float16(RANDOM.normal() * 0.05).view(np.uint16)


def set_factors(name, block, factors):
    """Writes f16 factors as bits, the last one repeated."""
    if name == "IQ1_M":
        for i in range(4):
            block[49 + 2 * i] = block[49 + 2 * i] & 0x0F | (int(factors[0]) >> 4 * i & 15) << 4
    for i, offset in enumerate(FACTORS[name]):
        block[offset : offset + 2] = np.frombuffer(np.uint16(factors[i % len(factors)]).tobytes(), np.uint8)


def ggml_blocks(name, size):
    """Random blocks, blocks of one code, every edge in every factor, every byte, every index of a grid."""
    blocks = []

    def add(content, *factors):
        block = np.array(content, np.uint8)
        set_factors(name, block, factors or (ordinary_factor(), ordinary_factor()))
        blocks.append(block)

    def noise():
        return RANDOM.integers(0, 256, size)

    for _ in range(4):
        add(noise())
    for byte in [0x00, 0xFF]:
        add(np.full(size, byte))
    for i, edge in enumerate(EDGES):
        add(noise(), edge, ordinary_factor())
        if len(FACTORS[name]) == 2:
            add(noise(), ordinary_factor(), edge)
            add(noise(), edge, EDGES[i - 1])
    for start in range(0, 256, size):
        add(np.arange(start, start + size) % 256)
    # A scale of a byte takes every value.
    if name == "MXFP4":
        for scale in range(256):
            add(noise())
            blocks[-1][0] = scale
    if name == "NVFP4":
        for scale in range(0, 256, 4):
            add(noise())
            blocks[-1][:4] = range(scale, scale + 4)
    blocks.extend(grid_blocks(name, size))
    return np.stack(blocks)


def grid_blocks(name, size):
    """Blocks with the factor 1 that select each vector of the format's grid once, in order."""
    entries = {"IQ1_S": 2048, "IQ2_XXS": 256, "IQ2_XS": 512, "IQ2_S": 1024, "IQ3_XXS": 256, "IQ3_S": 512}.get(name, 0)
    a_block = 64 if name.startswith("IQ3") else 32
    for first in range(0, entries, a_block):
        block = np.zeros(size, np.uint8)
        set_factors(name, block, [np.float16(1).view(np.uint16)])
        for i, index in enumerate(range(first, first + a_block)):
            low, high = index & 255, index >> 8
            if name == "IQ1_S":
                block[2 + i] = low
                word = high << (i % 4 * 3)
                block[34 + i // 4 * 2] |= word & 255
                block[35 + i // 4 * 2] |= word >> 8
            elif name == "IQ2_XXS":
                block[2 + i // 4 * 8 + i % 4] = low
            elif name == "IQ2_XS":
                block[2 + 2 * i : 4 + 2 * i] = [low, high]
            elif name == "IQ2_S":
                block[2 + i] = low
                block[66 + i // 4] |= high << (i % 4 * 2)
            elif name == "IQ3_XXS":
                block[2 + i] = low
            elif name == "IQ3_S":
                block[2 + i] = low
                block[66 + i // 8] |= high << (i % 8)
        yield block


def ggml():
    tensors = {}
    for name in FACTORS:
        kind = GGMLQuantizationType[name]
        blocks = ggml_blocks(name, GGML_QUANT_SIZES[kind][1])
        tensors[f"{name}.bytes"] = blocks
        tensors[f"{name}.values"] = dequantize(blocks, kind)
    words = np.concatenate([np.arange(0, 1 << 16, 97), EDGES]).astype(np.uint16)
    for name in ["F16", "BF16"]:
        tensors[f"{name}.bytes"] = words.view(np.uint8)
        tensors[f"{name}.values"] = dequantize(words.view(np.uint8), GGMLQuantizationType[name])
    return tensors


# Powers of two, an ordinary scale, a subnormal, a zero, infinity, NaN, and one that overflows most codes.
SCALES = [0.0078125, 0.0123456789, -1.5, 1e-40, 0.0, float("inf"), float("nan"), 3e38]


def scalar(value):
    return torch.tensor(value, dtype=torch.float32)


def scales():
    tensors = {}

    def case(name, values, **stored):
        for key, tensor in (stored | {"values": values.float()}).items():
            tensors[f"{name}.{key}"] = tensor.clone().contiguous()

    codes = torch.arange(256, dtype=torch.uint8).reshape(8, 32)
    kinds = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "int8": torch.int8}
    for name, dtype in kinds.items():
        weight = codes.view(dtype)
        if dtype == torch.int8:
            value = eager.dequantize_int8_simple
        else:
            value = lambda weight, scale: eager.dequantize_per_tensor_fp8(weight, scale, torch.float32)  # noqa: E731
        case(name, weight.float(), weight=weight)
        for i, scale in enumerate(SCALES):
            case(f"{name}.tensor{i}", value(weight, scalar(scale)), weight=weight, weight_scale=scalar(scale))
        rows = torch.tensor(SCALES).unsqueeze(1)
        case(f"{name}.rows", value(weight, rows), weight=weight, weight_scale=rows)

    generator = torch.Generator().manual_seed(15)

    def noise(*shape):
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    # More rows than a tile of 128 and more blocks than a tile of 4, both ragged, and a matrix within one tile.
    for name, rows, columns in [("large", 130, 150), ("small", 3, 32)]:
        padded = roundup(rows, 32), roundup(columns, 32)
        weight = noise(*padded).view(torch.float8_e4m3fn)
        exponents = torch.randint(100, 140, (padded[0], padded[1] // 32), dtype=torch.uint8, generator=generator)
        exponents[0, 0], exponents[1, 0], exponents[2, 0] = 0, 1, 255
        blocked = to_blocked(exponents, flatten=False)
        values = eager.dequantize_mxfp8(weight, blocked.view(torch.float8_e8m0fnu), torch.float32)
        case(f"mxfp8.{name}", values[:rows, :columns], weight=weight, weight_scale=blocked)
    for name, rows, columns, scale in [("large", 130, 70, 0.00123), ("small", 2, 16, 1e-38), ("infinite", 2, 16, 1e38)]:
        padded = roundup(rows, 16), roundup(columns, 16)
        weight = noise(padded[0], padded[1] // 2)
        # Random codes include NaN, negative and subnormal scales.
        blocked = to_blocked(noise(padded[0], padded[1] // 16), flatten=False).view(torch.float8_e4m3fn)
        values = eager.dequantize_nvfp4(weight, scalar(scale), blocked, torch.float32)
        stored = {"weight": weight, "weight_scale": blocked, "weight_scale_2": scalar(scale)}
        case(f"nvfp4.{name}", values[:rows, :columns], **stored)
    # Quantised and dequantised by the reference from end to end, padding included.
    original = torch.randn(20, 50, generator=generator)
    weight, blocked = eager.quantize_mxfp8(original, pad_32x=True)
    values = eager.dequantize_mxfp8(weight, blocked, torch.float32)[:20, :50]
    case("mxfp8.whole", values, weight=weight, weight_scale=blocked.view(torch.uint8))
    scale = original.abs().max() / (448 * 6)
    weight, blocked = eager.quantize_nvfp4(original, scale, pad_16x=True)
    values = eager.dequantize_nvfp4(weight, scale, blocked, torch.float32)[:20, :50]
    case("nvfp4.whole", values, weight=weight, weight_scale=blocked, weight_scale_2=scale)

    # With scales that are powers of two the rotation is exact in float32, in any order of its sums.
    for group in [4, 16, 64, 256]:
        for name, power in [("exact", True), ("rounded", False)]:
            weight, scale = eager.quantize_int8_convrot_weight(torch.randn(3, 512, generator=generator), group)
            if power:
                scale = torch.exp2(torch.floor(torch.log2(scale)))
            values = eager.dequantize_int8_convrot_weight(weight, scale, group)
            case(f"convrot{group}.{name}", values, weight=weight, weight_scale=scale)
    return tensors


OUT.mkdir(exist_ok=True)
with warnings.catch_warnings():
    # Infinite factors times zero, which is the point.
    warnings.simplefilter("ignore", RuntimeWarning)
    save_file(ggml(), OUT / "ggml.safetensors")
save_torch(scales(), OUT / "scales.safetensors")
for file in sorted(OUT.iterdir()):
    print(file.name, file.stat().st_size)
