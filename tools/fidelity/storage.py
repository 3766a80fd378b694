"""A model's weights in a storage format: the files or flags for `zimage`, and the values for
diffusers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
from diffusers import ZImagePipeline
from diffusers.quantizers.gguf import utils as diffusers_gguf
from safetensors.torch import save_file

from engine import PARTS, Engine
from model import Named, matrices
from stages import Tensors

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools" / "single_file"))

from spelling import comfy, comfy_name, llama_name, separate  # noqa: E402

GGUF = ("q8_0", "q6_k", "q5_k", "q4_k", "q4_0")
#: The formats of a table, the most precise first. BF16 is how the model is stored.
FORMATS = ("bf16", "q8_0", "fp8", "q6_k", "q5_k", "q4_k", "nvfp4", "q4_0")
#: The rows of each matrix that two readers of GGUF files are compared on.
COMPARED_ROWS = 16


@dataclass(frozen=True)
class Model:
    """A model whose weights change their format: its folder for `zimage`, and its networks in
    diffusers by part, with a copy of their parameters."""

    folder: Path
    networks: dict[str, torch.nn.Module]
    originals: dict[str, Tensors]

    @classmethod
    def of(cls, folder: Path, pipe: ZImagePipeline) -> Model:
        networks = {part: pipe.components[part.replace("-", "_")] for part in PARTS}
        originals = {part: {name: p.clone() for name, p in net.named_parameters()} for part, net in networks.items()}
        return cls(folder, networks, originals)

    def store(self, kind: str, engine: Engine, folder: Path) -> list[object]:
        """Gives diffusers the values of a format, and returns the flags for `zimage` that make it
        compute with the same. Files are written to `folder`."""
        beside = ["--vae", self.folder, "--tokenizer", self.folder]
        if kind in GGUF:
            files = engine.quantize(self.folder, kind, folder)
            device = next(self.networks[PARTS[0]].parameters()).device
            self.put(PARTS[0], split(dequantised(files[PARTS[0]], device)))
            names = {llama_name(name): name for name in self.originals[PARTS[1]]}
            self.put(PARTS[1], ((names[name], value) for name, value in dequantised(files[PARTS[1]], device)))
            return [*flags(files), *beside]
        if kind == "nvfp4":
            files, values = self.in_nvfp4(folder)
            for part in PARTS:
                self.put(part, (self.originals[part] | values[part]).items())
            return [*flags(files), *beside]
        for part in PARTS:
            matrices = self.matrices(part) if kind == "fp8" else []
            changed = {name: in_fp8(self.originals[part][name]) for name in matrices}
            self.put(part, (self.originals[part] | changed).items())
        return ["--model", self.folder, *(["--weights", "fp8"] if kind == "fp8" else [])]

    def matrices(self, part: str) -> list[str]:
        """The matrices of attention and feed-forward layers, by diffusers' names."""
        return matrices(self.originals[part].items())

    @torch.no_grad()
    def put(self, part: str, values: Named) -> None:
        """Sets all parameters of a network, rounded to its dtype."""
        own = dict(self.networks[part].named_parameters())
        for name, value in values:
            parameter = own.pop(name)
            parameter.copy_(value.reshape(parameter.shape))
        if own:
            raise SystemExit(f"the file of the {part} lacks {', '.join(own)}")

    def in_nvfp4(self, folder: Path) -> tuple[dict[str, Path], dict[str, Tensors]]:
        """Files in ComfyUI's layout that comfy-kitchen quantises, and the values that it reads."""
        from comfy import as_tensor, quantised  # comfy-kitchen is only needed here

        transformer, encoder = (self.originals[part] for part in PARTS)
        spelled = {PARTS[0]: comfy(transformer), PARTS[1]: encoder}
        layers = {PARTS[0]: {comfy_name(name) for name in self.matrices(PARTS[0])}, PARTS[1]: self.matrices(PARTS[1])}
        files, values = {}, {}
        for part in PARTS:
            kinds = {name.removesuffix(".weight"): "nvfp4" for name in layers[part]}
            tensors, confs, values[part] = quantised(spelled[part], kinds)
            tensors |= {f"{layer}.comfy_quant": as_tensor(conf) for layer, conf in confs.items()}
            prefix = "" if part == PARTS[0] else "model."
            files[part] = folder / f"{part}-nvfp4.safetensors"
            save_file({f"{prefix}{name}": tensor.contiguous() for name, tensor in tensors.items()}, files[part])
        values[PARTS[0]] = dict(split(values[PARTS[0]].items()))
        return files, values


def flags(files: dict[str, Path]) -> list[object]:
    """The flags of `zimage` for the files of the parts."""
    return ["--model", files[PARTS[0]], "--text-encoder", files[PARTS[1]]]


def split(values: Named) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a transformer in ComfyUI's spelling under diffusers' names."""
    for name, value in values:
        yield from separate(name, value).items()


def in_fp8(weight: torch.Tensor) -> torch.Tensor:
    """The values of E4M3 with a scale for each row, the largest magnitude / 448 (torchao's row-wise
    scaling), in float32."""
    weight = weight.float()
    scale = weight.abs().amax(dim=1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
    scale[scale == 0] = 1
    return (weight / scale).to(torch.float8_e4m3fn).float() * scale


def dequantised(file: Path, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a GGUF file in float32, as diffusers dequantises them on the device. The first
    rows of each must be equal to those that `gguf` dequantises."""
    for tensor in gguf.GGUFReader(file).tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        values = float_values(tensor, device).reshape(shape)
        if tensor.data.ndim == 2:
            known = gguf.dequantize(tensor.data[:COMPARED_ROWS], tensor.tensor_type)
            if not torch.equal(values[:COMPARED_ROWS].cpu(), torch.from_numpy(known)):
                raise SystemExit(f"{file}: diffusers and gguf read other values from {tensor.name}")
        yield tensor.name, values


def float_values(tensor: gguf.ReaderTensor, device: torch.device) -> torch.Tensor:
    """The values of a tensor in float32, by the functions that diffusers dequantises with."""
    kind = tensor.tensor_type
    stored = torch.from_numpy(tensor.data.copy()).to(device)
    if kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
        return stored.float()
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = stored.view(torch.uint8).reshape(-1, size)
    return diffusers_gguf.dequantize_functions[kind](blocks, elements, size, torch.float32)
