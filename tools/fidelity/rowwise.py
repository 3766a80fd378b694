"""Networks of diffusers whose large matrices multiply in row-wise FP8: by torchao, or with the same
values in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from unittest import mock

import torch
from torch.nn.functional import linear

from model import matrices
from reference import distance

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
#: The least maximum of a row of activations. Rows of zeros, which pad the shorter captions of a
#: batch, would become NaN.
LEAST = 1e-12
#: The scales of values, which broadcast to them.
Scales = Callable[[torch.Tensor], torch.Tensor]
#: Widths are multiples of this. torchao leaves other matrices in bf16.
VECTOR = 16


def torchao_version() -> str | None:
    """The version of torchao, if it is installed."""
    try:
        return version("torchao")
    except PackageNotFoundError:
        return None


def uses_torchao(device: torch.device) -> bool:
    """Whether torchao is installed and has gemms of FP8 for the device."""
    has_fp8 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    return has_fp8 and torchao_version() is not None


def program(device: torch.device) -> str:
    """The program that computes in FP8 on the device."""
    if uses_torchao(device):
        return f"torchao {torchao_version()}"
    return "plain PyTorch: torchao's values, products in float32"


def quantise(network: torch.nn.Module) -> None:
    """Gives the attention and feed-forward layers of a bf16 network FP8 operands, in place."""
    names = layers(network)
    device = network.get_submodule(names[0]).weight.device
    if uses_torchao(device):
        by_torchao(network, set(names))
        return
    for name in names:
        network.set_submodule(name, RowWise(network.get_submodule(name)))


def layers(network: torch.nn.Module) -> list[str]:
    """The linears of attention and feed-forward layers."""
    names = [name.removesuffix(".weight") for name in matrices(network.named_parameters())]
    for name in names:
        shape = list(network.get_submodule(name).weight.shape)
        if any(size % VECTOR for size in shape):
            raise SystemExit(f"{name} is {shape}: FP8 operands are multiples of {VECTOR}")
    return names


def by_torchao(network: torch.nn.Module, names: set[str]) -> None:
    """Gives the linears of these names the FP8 operands of torchao."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), activation_value_lb=LEAST)
    quantize_(network, config, lambda _, name: name in names)


class RowWise(torch.nn.Module):
    """A linear with the FP8 operands that torchao's has, or with other `scales` of activations. Its
    products are of float32."""

    def __init__(self, of: torch.nn.Linear, scales: Scales | None = None) -> None:
        super().__init__()
        self.scales = scales or row_scales
        self.bias = None if of.bias is None else of.bias.float()
        self.register_buffer("weight", rounded(of.weight, row_scales))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(rounded(x, self.scales), self.weight, self.bias).to(x.dtype)


def row_scales(values: torch.Tensor) -> torch.Tensor:
    """The scale of each row: the largest magnitude / 448, rounded to the dtype of the values, as
    torchao does."""
    return (values.abs().amax(dim=-1, keepdim=True).clamp(min=LEAST) / LARGEST).float()


def rounded(values: torch.Tensor, scales: Scales) -> torch.Tensor:
    """The float32 values of E4M3 with these scales."""
    factor = scales(values)
    codes = (values.float() / factor).clamp(-LARGEST, LARGEST).to(E4M3)
    return codes.float() * factor


@torch.no_grad()
def agreement(network: torch.nn.Module) -> str:
    """Compares `RowWise` with torchao on the matrix of the most columns, as a sentence. They must
    be three times as close to each other as to the product of bf16 operands; a GPU accumulates in
    fewer bits. Without a GPU, torchao computes on the CPU."""
    name = max(layers(network), key=lambda name: network.get_submodule(name).in_features)
    plain = network.get_submodule(name)
    device = plain.weight.device
    if torchao_version() is None or (device.type == "cuda" and not uses_torchao(device)):
        return f"there is no torchao for {device} to compare with"
    x = torch.randn(2, 100, plain.in_features, generator=torch.Generator().manual_seed(0)).to(plain.weight)
    x[0, 0] = 0
    theirs = torch.nn.ModuleDict({"only": deepcopy(plain)})
    # The check demands a GPU; the CPU has the op.
    with mock.patch("torchao.quantization.quant_api._check_hardware_support"):
        by_torchao(theirs, {"only"})
    try:
        out = theirs["only"](x)
    except RuntimeError:
        if device.type != "cpu":
            raise
        return f"PyTorch {torch.__version__} has no gemm with row-wise scales for the CPU"
    apart, error = distance(RowWise(plain)(x), out), distance(out, linear(x.float(), plain.weight.float()))
    if not apart <= error / 3:
        raise SystemExit(f"{name}: torchao and plain PyTorch are {apart:.1e} apart, FP8's error is {error:.1e}")
    return f"torchao {torchao_version()} and plain PyTorch are {apart:.1e} apart, FP8's error is {error:.1e} ({name})"
