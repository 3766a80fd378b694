#!/usr/bin/env python3
"""Prints what `gguf` reads from the files that `zimage quantize` writes of the embedded model, as
tests/goldens/gguf/emoji.json has it.

    pip install -r tools/gguf/requirements.txt
    tools/gguf/check.py ZIMAGE > tests/goldens/gguf/emoji.json

ZIMAGE is the program. Of each file: the metadata without the tokenizer, the number of tensors in each type, and a SHA-256
of every tensor's name, shape and values in float32, in the order of the names. With --files, prints the same of other files.
"""

import collections
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGUFReader, dequantize

MODEL = pathlib.Path(__file__).parents[2] / "models" / "emoji"
TYPES = {"transformer": ["q8_0", "q6_k", "q5_k", "q4_k", "q4_0", "bf16", "f16"], "text-encoder": ["q8_0", "q4_k"]}


def read(path):
    """What `gguf` finds in a file."""
    reader = GGUFReader(path)
    digest, types = hashlib.sha256(), collections.Counter()
    for tensor in sorted(reader.tensors, key=lambda tensor: tensor.name):
        shape = [int(size) for size in reversed(tensor.shape)]
        values = dequantize(tensor.data, tensor.tensor_type).astype("<f4").reshape(shape)
        assert np.isfinite(values).all(), tensor.name
        digest.update(f"{tensor.name} {shape}".encode())
        digest.update(values.tobytes())
        types[tensor.tensor_type.name] += 1
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tokens = fields.get("tokenizer.ggml.tokens", [])
    keys = {key: value for key, value in fields.items() if not key.startswith("tokenizer.")}
    return {"metadata": keys, "tokens": len(tokens), "types": dict(sorted(types.items())), "sha256": digest.hexdigest()}


def main():
    if sys.argv[1] == "--files":
        print(json.dumps({path: read(path) for path in sys.argv[2:]}, indent=1))
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for part, types in TYPES.items():
            for kind in types:
                path = pathlib.Path(folder) / f"{part}-{kind}.gguf"
                command = [sys.argv[1], "quantize", MODEL, "--type", kind, "--part", part, "-o", path, "--quiet"]
                subprocess.run(command, check=True)
                found[path.stem] = read(path)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
