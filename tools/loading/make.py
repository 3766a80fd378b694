"""A transformer of Z-Image's real size with random weights, as a diffusers folder, a ComfyUI file, an FP8 file and a
Q4_K file, and LoRA files of two ranks for all of its 238 linear layers, to time how they load:

    python tools/loading/make.py DIR
    zimage generate a -m DIR/model            --backend cuda --steps 1 -W 256 -H 256 --json
    zimage generate a -m DIR/comfy.safetensors --backend cuda --steps 1 -W 256 -H 256 --json
    zimage generate a -m DIR/fp8.safetensors  --backend cuda --steps 1 -W 256 -H 256 --json
    zimage generate a -m DIR/q4_k.gguf        --backend cuda --steps 1 -W 256 -H 256 --json
    zimage generate a -m DIR/model --lora DIR/lora_16.safetensors --backend cuda --steps 1 -W 256 -H 256 --json

`make.py DIR LAYERS` makes a transformer of fewer than its 30 layers. The text encoder has two of its 36 layers, so that most
of the time is the transformer's. Needs numpy, 34 GB of disk, and `models/emoji` for a tokenizer. `memory.py` next to this
file runs a command and prints its largest anonymous memory. `read.rs` times the reading alone, without a device:

    cargo run --release --no-default-features --example loading -- DIR/model [DIR/lora_16.safetensors]
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

#: Elements of the random pattern that every tensor repeats from another place on.
PATTERN = 1 << 24
DIM, HIDDEN, CAPTION, ADALN, HEAD = 3840, 10240, 2560, 256, 128
ALIGNMENT = 32
Shapes = list[tuple[str, list[int]]]


def block(prefix: str, modulated: bool) -> Shapes:
    attention = [(f"attention.{name}.weight", [DIM, DIM]) for name in ["to_q", "to_k", "to_v", "to_out.0"]]
    norms = [(f"attention.norm_{name}.weight", [HEAD]) for name in "qk"]
    norms += [(f"{name}.weight", [DIM]) for name in ["attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"]]
    feed = [(f"feed_forward.{w}.weight", [HIDDEN, DIM]) for w in ["w1", "w3"]] + [("feed_forward.w2.weight", [DIM, HIDDEN])]
    ada = [("adaLN_modulation.0.weight", [4 * DIM, ADALN]), ("adaLN_modulation.0.bias", [4 * DIM])] if modulated else []
    return [(f"{prefix}.{name}", shape) for name, shape in attention + norms + feed + ada]


def linear(name: str, rows: int, columns: int) -> Shapes:
    return [(f"{name}.weight", [rows, columns]), (f"{name}.bias", [rows])]


def transformer(layers: int) -> Shapes:
    shapes = [entry for i in range(layers) for entry in block(f"layers.{i}", True)]
    for i in range(2):
        shapes += block(f"noise_refiner.{i}", True) + block(f"context_refiner.{i}", False)
    shapes += linear("t_embedder.mlp.0", 1024, 256) + linear("t_embedder.mlp.2", ADALN, 1024)
    shapes += [("cap_embedder.0.weight", [CAPTION])] + linear("cap_embedder.1", DIM, CAPTION)
    shapes += linear("all_x_embedder.2-1", DIM, 64) + linear("all_final_layer.2-1.linear", 64, DIM)
    shapes += linear("all_final_layer.2-1.adaLN_modulation.1", DIM, ADALN)
    return shapes + [("x_pad_token", [1, DIM]), ("cap_pad_token", [1, DIM])]


def lora(shapes: Shapes, rank: int) -> Shapes:
    """A LoRA, in PEFT's names, of every linear layer of the blocks."""
    out: Shapes = []
    for name, shape in shapes:
        if len(shape) == 2 and (".attention." in name or ".feed_forward." in name):
            module = f"transformer.{name.removesuffix('.weight')}"
            out += [(f"{module}.lora_A.weight", [rank, shape[1]]), (f"{module}.lora_B.weight", [shape[0], rank])]
    return out


def text_encoder(layers: int) -> Shapes:
    shapes: Shapes = [("model.embed_tokens.weight", [151_936, CAPTION]), ("model.norm.weight", [CAPTION])]
    for i in range(layers):
        sizes = {"self_attn.q_proj": [4096, CAPTION], "self_attn.k_proj": [1024, CAPTION]}
        sizes |= {"self_attn.v_proj": [1024, CAPTION], "self_attn.o_proj": [CAPTION, 4096]}
        sizes |= {"self_attn.q_norm": [HEAD], "self_attn.k_norm": [HEAD]}
        sizes |= {"mlp.gate_proj": [9728, CAPTION], "mlp.up_proj": [9728, CAPTION], "mlp.down_proj": [CAPTION, 9728]}
        sizes |= {"input_layernorm": [CAPTION], "post_attention_layernorm": [CAPTION]}
        shapes += [(f"model.layers.{i}.{name}.weight", shape) for name, shape in sizes.items()]
    return shapes


def vae() -> Shapes:
    def conv(name: str, out: int, into: int, size: int = 3) -> Shapes:
        return [(f"decoder.{name}.weight", [out, into, size, size]), (f"decoder.{name}.bias", [out])]

    def norm(name: str, width: int) -> Shapes:
        return [(f"decoder.{name}.weight", [width]), (f"decoder.{name}.bias", [width])]

    def resnet(name: str, into: int, out: int) -> Shapes:
        shapes = norm(f"{name}.norm1", into) + conv(f"{name}.conv1", out, into)
        shapes += norm(f"{name}.norm2", out) + conv(f"{name}.conv2", out, out)
        return shapes + (conv(f"{name}.conv_shortcut", out, into, 1) if into != out else [])

    shapes = conv("conv_in", 512, 16) + norm("conv_norm_out", 128) + conv("conv_out", 3, 128)
    for i in range(2):
        shapes += resnet(f"mid_block.resnets.{i}", 512, 512)
    shapes += norm("mid_block.attentions.0.group_norm", 512)
    for name in ["to_q", "to_k", "to_v", "to_out.0"]:
        shapes += [(f"decoder.mid_block.attentions.0.{n}", shape) for n, shape in linear(name, 512, 512)]
    into = 512
    for level, width in enumerate([512, 512, 256, 128]):
        for i in range(3):
            shapes += resnet(f"up_blocks.{level}.resnets.{i}", into if i == 0 else width, width)
        shapes += conv(f"up_blocks.{level}.upsamplers.0.conv", width, width) if level < 3 else []
        into = width
    return shapes


def comfy(shapes: Shapes) -> Shapes:
    """The shapes in ComfyUI's spelling."""
    pairs = [("all_final_layer.2-1.", "final_layer."), ("all_x_embedder.2-1.", "x_embedder.")]
    pairs += [(".attention.to_out.0.", ".attention.out.")]
    pairs += [(".attention.norm_q.", ".attention.q_norm."), (".attention.norm_k.", ".attention.k_norm.")]
    out: Shapes = []
    for name, shape in shapes:
        if ".to_k." in name or ".to_v." in name:
            continue
        if ".to_q." in name:
            name, shape = name.replace(".to_q.", ".qkv."), [3 * shape[0], shape[1]]
        for old, new in pairs:
            name = name.replace(old, new)
        out.append((name, shape))
    return out


def repeated(pattern: np.ndarray, count: int, start: int) -> Iterator[bytes]:
    """`count` elements of the pattern, from `start` on, again and again."""
    while count > 0:
        start %= len(pattern)
        part = pattern[start : start + count]
        yield part.tobytes()
        start, count = start + len(part), count - len(part)


def write_safetensors(path: Path, shapes: Shapes, patterns: dict[str, np.ndarray], dtype: str) -> None:
    """Matrices in `dtype`, everything else in BF16."""
    header, end, kinds = {}, 0, []
    for name, shape in shapes:
        kind = dtype if len(shape) == 2 and min(shape) > 64 else "BF16"
        size = int(np.prod(shape)) * patterns[kind].itemsize
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        kinds.append(kind)
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for i, ((_, shape), kind) in enumerate(zip(shapes, kinds)):
            file.writelines(repeated(patterns[kind], int(np.prod(shape)), 7919 * i))


def write_gguf(path: Path, shapes: Shapes, blocks: np.ndarray) -> None:
    """Matrices whose rows are whole blocks in Q4_K, everything else in F32."""
    text = lambda value: struct.pack("<Q", len(value)) + value.encode()  # noqa: E731
    header = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), 1)
    header += text("general.architecture") + struct.pack("<I", 8) + text("lumina2")
    floats, offset, parts = np.random.default_rng(2).normal(0, 0.02, PATTERN).astype("<f4"), 0, []
    for name, shape in shapes:
        quantised = len(shape) == 2 and shape[1] % 256 == 0 and shape[0] > 1
        count = int(np.prod(shape)) // 256 if quantised else int(np.prod(shape))
        pattern, kind = (blocks, 12) if quantised else (floats, 0)
        header += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)
        size = count * pattern.dtype.itemsize
        parts.append((pattern, count, -size % ALIGNMENT))
        offset += size + -size % ALIGNMENT
    with path.open("wb") as file:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        for i, (pattern, count, padding) in enumerate(parts):
            file.writelines(repeated(pattern, count, 7919 * i))
            file.write(bytes(padding))


def q4_k(rng: np.random.Generator) -> np.ndarray:
    """Random blocks whose values are about those of weights."""
    count = PATTERN // 256
    raw = rng.integers(0, 256, (count, 144), dtype=np.uint8)
    scales = np.stack([rng.uniform(1e-5, 4e-5, count), rng.uniform(1e-4, 3e-4, count)], axis=1).astype("<f2")
    raw[:, :4] = scales.view(np.uint8)
    return np.ascontiguousarray(raw).view("V144").reshape(-1)


def main() -> None:
    out = Path(sys.argv[1])
    layers = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    model = out / "model"
    rng = np.random.default_rng(1)
    bf16 = (rng.normal(0, 0.02, PATTERN).astype("<f4").view("<u4") >> 16).astype("<u2")
    # E4M3: any sign, exponents of about 2⁻⁹ to 2⁻⁵.
    codes = (rng.integers(0, 2, PATTERN) << 7 | rng.integers(0, 24, PATTERN)).astype(np.uint8)
    patterns = {"BF16": bf16, "F8_E4M3": codes}
    emoji = Path(__file__).resolve().parents[2] / "models/emoji"
    for part in ["transformer", "text_encoder", "vae"]:
        (model / part).mkdir(parents=True, exist_ok=True)
    shutil.copytree(emoji / "tokenizer", model / "tokenizer", dirs_exist_ok=True)
    shutil.copytree(emoji / "scheduler", model / "scheduler", dirs_exist_ok=True)
    (model / "model_index.json").write_text('{"_class_name": "ZImagePipeline"}')
    configs = {
        "transformer": {"_class_name": "ZImageTransformer2DModel", "in_channels": 16, "dim": DIM, "n_layers": layers, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "cap_feat_dim": CAPTION, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512]},
        "text_encoder": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": CAPTION, "num_hidden_layers": 2, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": HEAD, "intermediate_size": 9728, "rms_norm_eps": 1e-6, "rope_theta": 1e6},
        "vae": {"_class_name": "AutoencoderKL", "latent_channels": 16, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32, "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False},
    }  # fmt: skip
    for part, config in configs.items():
        (model / part / "config.json").write_text(json.dumps(config))
    write_safetensors(model / "text_encoder/model.safetensors", text_encoder(2), patterns, "BF16")
    write_safetensors(model / "vae/diffusion_pytorch_model.safetensors", vae(), patterns, "BF16")
    write_safetensors(model / "transformer/diffusion_pytorch_model.safetensors", transformer(layers), patterns, "BF16")
    write_safetensors(out / "comfy.safetensors", comfy(transformer(layers)), patterns, "BF16")
    write_safetensors(out / "fp8.safetensors", comfy(transformer(layers)), patterns, "F8_E4M3")
    write_gguf(out / "q4_k.gguf", comfy(transformer(layers)), q4_k(rng))
    for rank in [16, 128]:
        write_safetensors(out / f"lora_{rank}.safetensors", lora(transformer(layers), rank), patterns, "BF16")
    # The other parts are found next to the files.
    for part in ["text_encoder", "vae", "tokenizer"]:
        (out / part).unlink(missing_ok=True)
        (out / part).symlink_to(model / part)


main()
