"""Writes the GGUF files of the tests with the Python package `gguf`; see the README beside it."""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, TokenType
from prompts import prompts
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/goldens/gguf"
#: The rows of the embeddings of `single` and of Qwen3; fillers pad the vocabulary up to them.
ROWS = {"single": 640, "qwen3": 151_936}


def write(path: Path, arch: str, fill) -> None:
    """Writes a file that `fill` adds metadata and tensors to."""
    writer = GGUFWriter(path, arch)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def types(writer: GGUFWriter) -> None:
    """A value of each metadata type and a tensor of each tensor type."""
    rng = np.random.default_rng(15)
    writer.add_custom_alignment(64)
    writer.add_name("types")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -100)
    writer.add_uint16("a.u16", 60_000)
    writer.add_int16("a.i16", -30_000)
    writer.add_uint32("a.u32", 4_000_000_000)
    writer.add_int32("a.i32", -2_000_000_000)
    writer.add_float32("a.f32", 0.15625)
    writer.add_bool("a.true", True)
    writer.add_bool("a.false", False)
    writer.add_string("a.text", "größer 狐狸 🦊")
    writer.add_string("a.long", "x" * 70_000)
    writer.add_uint64("a.u64", 2**63 + 1)
    writer.add_int64("a.i64", -(2**63))
    writer.add_float64("a.f64", 1e300)
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.texts", ["a", "", "é"])
    writer.add_array("a.flags", [True, False])
    writer.add_array("a.nested", [[1, 2], [3, 4]])
    writer.add_array("comfy.gguf.orig_shape.reshaped.weight", [4, 3, 2, 2, 16])

    for kind in GGMLQuantizationType:
        _, block = gguf.GGML_QUANT_SIZES[kind]
        data = rng.integers(0, 256, size=(3, 2 * block), dtype=np.uint8)
        writer.add_tensor(f"kind.{kind.name.lower()}", data, raw_dtype=kind)
    f32 = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    writer.add_tensor("one.weight", f32(1))
    writer.add_tensor("four.weight", f32(2, 3, 4, 5).astype(np.float16))
    writer.add_tensor("reshaped.weight", gguf.quants.quantize(f32(3, 256), GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)


def listing(path: Path) -> dict:
    """What `gguf` itself reads."""
    reader = GGUFReader(path)
    tensors = {
        t.name: {
            "shape": [int(n) for n in reversed(t.shape)],
            "id": int(t.tensor_type),
            "type": t.tensor_type.name,
            "offset": int(t.data_offset),
            "bytes": int(t.n_bytes),
        }
        for t in reader.tensors
    }
    tensors["reshaped.weight"]["shape"] = [4, 3, 2, 2, 16]
    scalars = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.") and field.types[0] != GGUFValueType.ARRAY and name != "a.long"
    }
    return {"tensors": tensors, "scalars": scalars}


def tokenizer(layout: dict, rows: int):
    """The tokenizer.json `layout`, stored as llama.cpp's converter does it: texts and types of all
    rows, fillers where there is no token, and merges with a space between their two tokens."""
    texts = {id: (text, TokenType.NORMAL) for text, id in layout["model"]["vocab"].items()}
    for token in layout["added_tokens"]:
        text = token["content"]
        control = token["special"] or (text.startswith("<|") and text.endswith("|>"))
        texts[token["id"]] = (text, TokenType.CONTROL if control else TokenType.USER_DEFINED)
    filled = [texts.get(id, (f"[PAD{id}]", TokenType.UNUSED)) for id in range(rows)]
    ids = {token["content"]: token["id"] for token in layout["added_tokens"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in layout["model"]["merges"]]

    def fill(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list([text for text, _ in filled])
        writer.add_token_types([kind for _, kind in filled])
        writer.add_token_merges(merges)
        writer.add_eos_token_id(ids["<|im_end|>"])
        writer.add_pad_token_id(ids["<|endoftext|>"])
        writer.add_bos_token_id(ids["<|endoftext|>"])
        writer.add_add_bos_token(False)

    return fill


def record(source: Path, rows: int, path: Path) -> dict:
    """Writes the tokenizer in `source` to `path`, and returns the sums of both and of the ids that
    it gives the prompts."""
    text = source.read_bytes()
    write(path, "qwen3", tokenizer(json.loads(text), rows))
    reference = Tokenizer.from_str(text.decode())
    reference.no_truncation()
    reference.no_padding()
    digest = hashlib.sha256()
    for prompt in prompts():
        chat = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        ids = reference.encode(chat, add_special_tokens=False).ids[:512]
        digest.update(np.array([len(ids), *ids], dtype="<u4").tobytes())
    sha = lambda data: hashlib.sha256(data).hexdigest()  # noqa: E731
    return {"rows": rows, "tokenizer": sha(text), "gguf": sha(path.read_bytes()), "ids": digest.hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--qwen", type=Path, required=True, help="folder with Qwen3's own tokenizer.json")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    write(OUT / "types.gguf", "lumina2", types)
    dump = lambda name, value: (OUT / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")  # noqa: E731
    dump("types.json", listing(OUT / "types.gguf"))
    dump("prompts.json", prompts())
    with tempfile.TemporaryDirectory() as folder:
        recorded = {
            "single": record(ROOT / "tests/goldens/single/tokenizer/tokenizer.json", ROWS["single"], OUT / "tokenizer.gguf"),
            "qwen3": record(args.qwen / "tokenizer.json", ROWS["qwen3"], Path(folder) / "qwen3.gguf"),
        }
    dump("tokenizers.json", recorded)


if __name__ == "__main__":
    main()
