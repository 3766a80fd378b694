#!/usr/bin/env python3
"""Writes tests/goldens/gguf/quantized.safetensors and quantized.json: right values for the quantisers.

    pip install -r tools/gguf/requirements.txt
    tools/gguf/quantize.py

`gguf` quantises the legacy types: quantized.safetensors has its bytes. The K-quants are measured: quantized.json has the
relative root-mean-square errors of ggml's own quantisers and of a quantiser that only spreads the codes over the range of
each group. ggml is compiled from the source distribution of llama-cpp-python with gcc and g++, which takes a minute.
"""

import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import dequantize, quantize
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parents[2] / "tests" / "goldens" / "gguf"
RANDOM = np.random.default_rng(7)
LLAMA = "llama-cpp-python==0.3.36"
#: The types that `gguf` quantises, and the K-quants with their bytes of a super-block.
EXACT = [Type.Q8_0, Type.Q4_0, Type.BF16, Type.F16]
K_QUANTS = {Type.Q4_K: 144, Type.Q5_K: 176, Type.Q6_K: 210}


def bf16(values):
    """Values as a model's file has them."""
    return dequantize(quantize(np.asarray(values, np.float32), Type.BF16), Type.BF16)


def edges():
    """Blocks of 32 for the types that `gguf` quantises."""
    ramp = np.arange(-16, 16)
    rows = [
        np.zeros(32),
        np.full(32, -0.0),
        np.full(32, 0.037),
        np.full(32, -3.5),
        np.eye(1, 32, 5)[0] * 7,
        np.eye(1, 32, 31)[0] * -7,
        np.where(ramp % 2, 1.0, -1.0),
        np.where(ramp % 2, -1.0, 1.0),
        ramp / 16,
        # Halves of codes: the largest is 127 codes of Q8_0, or -8 codes of Q4_0.
        np.concatenate([[127], np.arange(31) - 15.5]),
        np.concatenate([[-8], (np.arange(31) - 15) / 2]),
        np.concatenate([[8], (np.arange(31) - 15) / 2]),
        np.concatenate([[127], np.full(31, np.nextafter(np.float32(0.5), np.float32(0)))]),
        RANDOM.normal(size=32) * 1e-8,
        RANDOM.normal(size=32) * 1e-12,
        # The largest for a scale of F16 and for F16 itself.
        RANDOM.uniform(-6e4, 6e4, size=32),
    ]
    return np.concatenate([np.stack(rows), RANDOM.normal(size=(48, 32)) * 0.03, RANDOM.standard_t(3, size=(32, 32))])


def matrices():
    """Weights of several distributions, 32 rows of 256."""
    shape = (32, 256)
    outliers = RANDOM.normal(size=shape) * 0.02
    outliers[RANDOM.random(size=shape) < 0.003] *= 20
    return {
        "normal": RANDOM.normal(size=shape) * 0.02,
        "student": RANDOM.standard_t(4, size=shape) * 0.02,
        "laplace": RANDOM.laplace(size=shape) * 0.02,
        "uniform": RANDOM.uniform(-0.05, 0.05, size=shape),
        "outliers": outliers,
        "positive": RANDOM.gamma(2, size=shape) * 0.1,
        "shifted": RANDOM.normal(size=shape) * 0.01 - 0.2,
        "rows": RANDOM.normal(size=shape) * np.exp(RANDOM.normal(size=(shape[0], 1))) * 0.02,
        "groups": RANDOM.normal(size=shape) * np.exp(np.repeat(RANDOM.normal(size=(shape[0], 16)), 16, axis=1)) * 0.02,
    }


def over_range(values, kind):
    """The values that a K-quant has whose groups spread their codes over their range, without a search."""
    half = np.float16
    if kind == Type.Q6_K:
        groups = values.reshape(-1, 16, 16)
        scales = abs(groups).max(-1) / 31
        d = (scales.max(-1, keepdims=True) / 127).astype(half).astype(np.float32)
        scale = (d * np.rint(scales / d))[..., None]
        return (np.clip(np.rint(groups / np.maximum(scale, 1e-30)), -32, 31) * scale).reshape(values.shape)
    top = 15 if kind == Type.Q4_K else 31
    groups = values.reshape(-1, 8, 32)
    low = np.minimum(groups.min(-1), 0)
    scales, minimums = (groups.max(-1) - low) / top, -low
    d, dmin = ((v.max(-1, keepdims=True) / 63).astype(half).astype(np.float32) for v in (scales, minimums))
    scale = (d * np.clip(np.rint(scales / d), 0, 63))[..., None]
    minimum = (dmin * np.clip(np.rint(minimums / np.maximum(dmin, 1e-30)), 0, 63))[..., None]
    codes = np.clip(np.rint((groups + minimum) / np.maximum(scale, 1e-30)), 0, top)
    return (codes * scale - minimum).reshape(values.shape)


def ggml(folder):
    """ggml's `ggml_quantize_chunk`, compiled in `folder`."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", LLAMA]
    subprocess.run(pip, cwd=folder, check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    root = next(folder.glob("*/vendor/llama.cpp/ggml"))
    (root / "src" / "ggml-version.h").write_text('#define GGML_VERSION ""\n#define GGML_COMMIT ""\n')
    objects = []
    for compiler, source in [("gcc", "ggml.c"), ("gcc", "ggml-quants.c"), ("g++", "ggml-threading.cpp")]:
        objects.append(f"{source}.o")
        command = [compiler, "-O2", "-fPIC", "-I../include", "-I.", "-c", source, "-o", objects[-1]]
        subprocess.run(command, cwd=root / "src", check=True)
    # The quantisers call nothing of the parts that are left out.
    link = ["g++", "-shared", "-Wl,--unresolved-symbols=ignore-all", *objects, "-lm", "-o", "quants.so"]
    subprocess.run(link, cwd=root / "src", check=True)
    chunk = ctypes.CDLL(str(root / "src" / "quants.so"), mode=os.RTLD_LAZY).ggml_quantize_chunk
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    chunk.restype, chunk.argtypes = ctypes.c_size_t, [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    return chunk


def main():
    tensors, errors = {}, {}
    blocks = np.ascontiguousarray(edges(), np.float32)
    tensors["blocks"] = blocks
    for kind in EXACT:
        tensors[f"blocks.{kind.name}"] = quantize(blocks, kind).view(np.uint8).reshape(len(blocks), -1)

    def relative(values, found):
        values = values.astype(np.float64)
        return float(np.sqrt(((values - found) ** 2).sum() / (values**2).sum()))

    with tempfile.TemporaryDirectory() as folder:
        chunk = ggml(pathlib.Path(folder))
        for name, values in matrices().items():
            values = np.ascontiguousarray(bf16(values))
            tensors[name] = quantize(values, Type.BF16).view(np.uint8).reshape(len(values), -1)
            errors[name] = {}
            for kind, size in K_QUANTS.items():
                out = np.zeros((values.size // 256, size), np.uint8)
                chunk(kind, values.ctypes.data, out.ctypes.data, 0, *values.shape, None)
                by_ggml = relative(values, dequantize(out, kind).reshape(values.shape))
                by_range = relative(values, over_range(values, kind))
                errors[name][kind.name] = {"ggml": round(by_ggml, 6), "range": round(by_range, 6)}
    save_file(tensors, OUT / "quantized.safetensors")
    (OUT / "quantized.json").write_text(json.dumps(errors, indent=1) + "\n")


if __name__ == "__main__":
    main()
