"""Makes tests/single_files: a small model as a diffusers folder, and in the formats that people have.

A file `NAME.expected.safetensors` holds the float32 values that the quantised tensors of `NAME` have,
by the packages that define the formats, under the names of diffusers or transformers."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from gguf import GGMLQuantizationType as Type

import base
import comfy
import ggufs
import spelling
from base import Draw, Tensors

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests" / "goldens" / "single"
LAYERS = [
    "layers.0.attention.qkv", "layers.0.attention.out", "layers.0.feed_forward.w1", "layers.0.feed_forward.w2",
    "layers.0.feed_forward.w3", "layers.0.adaLN_modulation.0", "cap_embedder.1",
]  # fmt: skip
PREFIX = "model.diffusion_model."

#: The formats of each file's layers, in the order of LAYERS. The third of `qkv` has 64 rows, half a
#: tile of the blocked scales, and `w2` has 170 columns, which no block divides.
COMFY_QUANT = {
    "comfy_quant": [
        "nvfp4", "float8_e4m3fn", "mxfp8", "nvfp4", "int8_tensorwise", "int8_convrot", "float8_e5m2",
    ],
    "comfy_quant_metadata": [
        "mxfp8", "int8_convrot", "float8_e5m2", "mxfp8", "nvfp4", "int8_rows", "int8_tensorwise",
    ],
    "comfy_quant_int8": [
        "int8_rows", "int8_convrot", "int8_convrot", "int8_rows", None, "int8_tensorwise", None,
    ],
}  # fmt: skip
#: None leaves the layer in BF16: 170 columns are no multiple of a block of 32.
GGUF = {
    "gguf": [Type.IQ4_NL, Type.Q4_1, Type.Q5_0, None, Type.Q5_1, Type.Q4_0, Type.Q8_0],
    "gguf_floats": [Type.F16, Type.F32, Type.BF16, Type.F32, Type.F16, Type.BF16, Type.F16],
}  # fmt: skip
K_QUANTS = [Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_XS]


class Exports:
    """The exports of one transformer into a folder."""

    def __init__(self, folder: Path, tensors: Tensors):
        self.folder = folder
        self.diffusers = tensors
        stored = {name: base.as_bf16(t) if base.is_rest(name) else base.compact(name, t) for name, t in tensors.items()}
        #: In ComfyUI's spelling, in the element types of the diffusers folder.
        self.comfy = spelling.comfy(stored)

    def expect(self, name: str, values: Tensors) -> None:
        """Writes what replaces the second shard of the diffusers folder."""
        rest = {key: t for key, t in self.diffusers.items() if base.is_rest(key)}
        for key, value in values.items():
            rest.update(spelling.separate(key, value))
        assert all(base.is_rest(key) and rest[key].shape == self.diffusers[key].shape for key in rest)
        base.write(self.folder / f"{name}.expected.safetensors", {key: t.to(torch.float32) for key, t in rest.items()})

    def write(self, name: str, tensors: Tensors, prefix: str = "", metadata: dict[str, str] | None = None) -> None:
        base.write(self.folder / f"{name}.safetensors", {f"{prefix}{key}": t for key, t in tensors.items()}, metadata)

    def plain(self) -> None:
        """The same numbers in ComfyUI's spelling, in BF16 with its prefix; and in plain FP8, of both
        kinds, without."""
        self.write("comfy", {**self.comfy, "norm_final.weight": torch.ones(8, dtype=torch.bfloat16)}, PREFIX)
        kinds = [torch.float8_e4m3fn, torch.float8_e5m2]
        fp8 = {f"{layer}.weight": self.comfy[f"{layer}.weight"].to(kinds[i % 2]) for i, layer in enumerate(LAYERS)}
        self.write("fp8", {**self.comfy, **fp8})
        self.expect("fp8", {name: t.to(torch.float32) for name, t in fp8.items()})

    def scaled(self) -> None:
        """FP8 with the scales of the older spelling."""
        tensors, values = comfy.fp8_scaled(self.comfy, LAYERS, torch.float8_e4m3fn)
        self.write("fp8_scaled", tensors, PREFIX)
        self.expect("fp8_scaled", values)

    def comfy_quant(self, name: str, kinds: list[str | None]) -> None:
        layers = {layer: kind for layer, kind in zip(LAYERS, kinds) if kind}
        tensors, confs, values = comfy.quantised(self.comfy, layers)
        metadata = None
        if name == "comfy_quant_metadata":
            # The names of the layers lack the prefix, as in some published files. A second key would
            # be written before or after this one at random.
            metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": confs})}
        else:
            tensors.update({f"{layer}.comfy_quant": comfy.as_tensor(conf) for layer, conf in confs.items()})
        self.write(name, tensors, PREFIX, metadata)
        self.expect(name, values)

    def gguf(self, name: str, kinds: list[Type | None]) -> None:
        named = {f"{layer}.weight": kind for layer, kind in zip(LAYERS, kinds) if kind is not None}
        # As stable-diffusion.cpp writes them: no architecture, a prefix, and vectors in F32.
        bare = name == "gguf_floats"
        tensors = {key: t.to(torch.float32) for key, t in self.comfy.items()}
        architecture, prefix = (None, PREFIX) if bare else ("lumina2", "")
        path = self.folder / f"{name}.gguf"
        self.expect(name, ggufs.transformer(path, tensors, named, architecture, prefix, Type.F32 if bare else Type.BF16))


def text_encoders(folder: Path, tensors: Tensors) -> None:
    """Qwen3 with some matrices quantised, as ComfyUI and llama.cpp store it. The last layer is not
    used, so the expected values lack it."""

    def expect(name: str, values: Tensors) -> None:
        used = {key: values.get(key, t).to(torch.float32) for key, t in tensors.items() if "layers.1." not in key}
        base.write(folder / f"{name}.expected.safetensors", used)

    matrices = [key for key, t in sorted(tensors.items()) if t.ndim == 2]
    turns = ["float8_e4m3fn", "nvfp4"]
    kinds = {key.removesuffix(".weight"): turns[i % 2] for i, key in enumerate(matrices)}
    stored, confs, values = comfy.quantised({key: base.as_bf16(t) for key, t in tensors.items()}, kinds)
    stored.update({f"{layer}.comfy_quant": comfy.as_tensor(conf) for layer, conf in confs.items()})
    base.write(folder / "text_encoder.safetensors", {f"model.{key}": t for key, t in stored.items()})
    expect("text_encoder", values)
    turns = [Type.Q8_0, Type.Q5_0, Type.BF16, Type.Q4_1]
    tokenizer = GOLDEN / "tokenizer" / "tokenizer.json"
    expect("text_encoder_gguf", ggufs.text_encoder(folder / "text_encoder_gguf.gguf", tensors, turns, tokenizer))


def all_in_one(folder: Path, exports: Exports, text_encoder: Tensors, vae: Tensors) -> None:
    """All parts in one file with ComfyUI's prefixes, the same numbers as in the diffusers folder."""
    text = {name: base.compact(name, t) for name, t in text_encoder.items()}
    tensors = {f"{PREFIX}{name}": t for name, t in exports.comfy.items()}
    tensors |= {f"text_encoders.qwen3_4b.transformer.model.{name}": t for name, t in text.items()}
    tensors |= {f"vae.{name}": base.as_bf16(t) for name, t in spelling.ldm(vae, 2).items()}
    tensors["text_encoders.qwen3_4b.logit_scale"] = torch.tensor(1.0)
    base.write(folder / "all_in_one.safetensors", tensors)


def k_quants(folder: Path) -> None:
    """A wider model for the types whose blocks have 256 elements, one file a type, with each
    matrix of the layer in that type."""
    sizes, draw = base.WIDE, Draw(2)
    tensors = base.transformer(sizes, draw)
    base.write_folder(
        folder / "model", GOLDEN, {"transformer": tensors, "text_encoder": base.text_encoder(draw), "vae": base.vae(draw)}, sizes
    )
    exports = Exports(folder, tensors)
    for kind in K_QUANTS:
        exports.gguf(f"gguf_{kind.name.lower()}", [kind] * 6 + [None])


def small(folder: Path, each: bool) -> None:
    draw = Draw(1)
    transformer, text_encoder, vae = base.transformer(base.SMALL, draw), base.text_encoder(draw), base.vae(draw)
    parts = {"transformer": transformer, "text_encoder": text_encoder, "vae": vae}
    base.write_folder(folder / "model", GOLDEN, parts, base.SMALL)
    exports = Exports(folder, transformer)
    if each:
        for kind in sorted({kind for kinds in COMFY_QUANT.values() for kind in kinds if kind}):
            # Groups of columns that rotate together must fill the 170 of w2.
            exports.comfy_quant(kind, [None if kind == "int8_convrot" and "w2" in layer else kind for layer in LAYERS])
        for kind in sorted({kind for kinds in GGUF.values() for kind in kinds if kind is not None}):
            floats = kind in (Type.F16, Type.F32, Type.BF16)
            exports.gguf(f"gguf_{kind.name.lower()}", [kind if floats or "w2" not in layer else None for layer in LAYERS])
        return
    exports.plain()
    exports.scaled()
    for name, kinds in COMFY_QUANT.items():
        exports.comfy_quant(name, kinds)
    for name, kinds in GGUF.items():
        exports.gguf(name, kinds)
    text_encoders(folder, text_encoder)
    ldm = {name: base.as_bf16(t) for name, t in spelling.ldm(vae, 2).items()}
    base.write(folder / "ae.safetensors", ldm)
    all_in_one(folder, exports, text_encoder, vae)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=Path, help="write one file a format into this folder instead")
    parser.add_argument("--k-quants", type=Path, help="write the wider model into this folder instead")
    args = parser.parse_args()
    if args.k_quants:
        k_quants(args.k_quants)
        return
    folder = args.each or REPOSITORY / "tests" / "single_files"
    if not args.each and folder.exists():
        shutil.rmtree(folder)
    small(folder, bool(args.each))


if __name__ == "__main__":
    main()
