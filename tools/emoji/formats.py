"""The storage formats of the small model: NVFP4 for the large matrices, INT8 with a scale a row for
convolutions, in the safetensors layout of ComfyUI that zimage reads. Training rounds weights to
them in the forward pass and passes gradients through unchanged.

NVFP4: blocks of 16 columns; value = e2m1 code · E4M3 scale of the block · scale of the tensor.
INT8: value = code · F32 scale of the row.

Used by networks.py, autoencoder.py and export.py; needs torch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16
#: The scale of every tensor. Blocks with maxima from 4e-4 to 10 then have normal E4M3 scales.
TENSOR_SCALE = 2.0**-8
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def e2m1(x: Tensor) -> Tensor:
    """Magnitudes rounded to the nearest of E2M1, ties to the even code."""
    steps = [(x > 0.25), (x >= 0.75), (x > 1.25), (x >= 1.75)]
    low = sum([step.to(x.dtype) for step in steps]) * 0.5
    return low + (x > 2.5).to(x.dtype) + (x >= 3.5).to(x.dtype) + 2 * (x > 5).to(x.dtype)


def nvfp4_parts(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values in units of their scales [N, K/16, 16] and E4M3 scales [N, K/16, 1] in units of the
    tensor's; K is padded to whole blocks."""
    blocks = F.pad(weight.float(), (0, -weight.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    scale = (blocks.abs().amax(-1, keepdim=True) / (6 * TENSOR_SCALE)).clamp(2.0**-6, 448)
    scale = scale.to(torch.float8_e4m3fn).float()
    units = blocks / (scale * TENSOR_SCALE)
    return units.sign() * e2m1(units.abs()), scale


def nvfp4(weight: Tensor) -> Tensor:
    """The matrix [N, K] rounded to NVFP4."""
    units, scale = nvfp4_parts(weight)
    return (units * (scale * TENSOR_SCALE)).flatten(1)[:, : weight.shape[1]]


def int8_scale(weight: Tensor) -> Tensor:
    return (weight.float().abs().flatten(1).amax(1) / 127).clamp(min=1e-12)


def int8(weight: Tensor) -> Tensor:
    """A kernel [N, …] rounded to INT8 with a scale a row."""
    scale = int8_scale(weight).view(-1, *[1] * (weight.ndim - 1))
    return (weight / scale).round() * scale


def straight_through(weight: Tensor, rounded: Tensor, share: Tensor | float = 1.0) -> Tensor:
    """The rounded weight, or a mixture by `share`, with the gradient of the weight itself."""
    return weight + share * (rounded - weight).detach()


def swizzled(scales: Tensor) -> Tensor:
    """Block scales [N, K/16] in cuBLAS's layout: tiles of 128 × 4, each as 32 × (4 × 4)."""
    rows, columns = -scales.shape[0] % 128, -scales.shape[1] % 4
    tiles = F.pad(scales, (0, columns, 0, rows)).unflatten(1, (-1, 4)).unflatten(0, (-1, 4, 32))
    return tiles.permute(0, 3, 2, 1, 4).reshape(scales.shape[0] + rows, scales.shape[1] + columns).contiguous()


def encode_nvfp4(name: str, weight: Tensor) -> dict[str, Tensor]:
    """The tensors of the matrix `name`: codes U8 [N, K/2] with the first of two in the high bits,
    scales E4M3, and the scale of the tensor."""
    units, scale = nvfp4_parts(weight)
    magnitude = torch.searchsorted(torch.tensor(E2M1), units.abs().contiguous())
    codes = (magnitude + 8 * (units < 0)).flatten(1).to(torch.uint8)
    layer = name.removesuffix(".weight")
    return {
        name: (codes[:, ::2] << 4) | codes[:, 1::2],
        f"{layer}.weight_scale": swizzled(scale[..., 0]).to(torch.float8_e4m3fn),
        f"{layer}.weight_scale_2": torch.tensor(TENSOR_SCALE),
    }


def encode_int8(name: str, weight: Tensor) -> dict[str, Tensor]:
    """The tensors of the kernel `name`: codes I8 and scales F32 [N]."""
    scale = int8_scale(weight)
    codes = (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round().to(torch.int8)
    return {name: codes, f"{name.removesuffix('.weight')}.weight_scale": scale}


def decoded(tensors: dict[str, Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """The weights of a stored file in float32, by the names and shapes of `shapes`. Names that the
    file lacks are left out."""
    weights = {}
    for name, shape in shapes.items():
        if name not in tensors:
            continue
        stored, layer = tensors[name], name.removesuffix(".weight")
        if stored.dtype == torch.uint8:
            codes = torch.stack([stored >> 4, stored & 15], -1).flatten(1).long()
            units = torch.tensor(E2M1)[codes & 7] * (1 - 2 * (codes >> 3))
            rows, columns = codes.shape[0], codes.shape[1] // BLOCK
            scales = tensors[f"{layer}.weight_scale"].float()
            order = swizzled(torch.arange(rows * columns).view(rows, columns).add(1).double()).flatten().long()
            plain = torch.zeros(rows * columns + 1).index_copy(0, order, scales.flatten())[1:].view(rows, columns, 1)
            values = units.unflatten(1, (-1, BLOCK)) * (plain * tensors[f"{layer}.weight_scale_2"])
            weights[name] = values.flatten(1)[:, : shape[1]]
        elif stored.dtype == torch.int8:
            scale = tensors[f"{layer}.weight_scale"]
            weights[name] = stored.float() * scale.view(-1, *[1] * (stored.ndim - 1))
        else:
            weights[name] = stored.float()
    return weights
