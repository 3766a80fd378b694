"""Writes the trained networks as a model folder, in the stored formats or in plain floats.

Run: python tools/emoji/export.py --work target/emoji --out target/emoji/model
     python tools/emoji/export.py --model models/emoji --out target/emoji/bf16 --bf16
     python tools/emoji/export.py --model models/emoji --out target/emoji/f32 --f32
Needs: the output of vae.py and training.py in WORK, or a stored model folder; torch, safetensors
and tokenizers; no GPU.

The stored folder has the files and names of diffusers; its matrices are NVFP4 and its kernels INT8,
as formats.py describes. It leaves out the text encoder's last layer, which Z-Image does not use.
The folders of plain floats have the same weights, and that layer as a copy of the one before:
`ZImagePipeline.from_pretrained` opens them. float32 holds every stored value exactly; bfloat16
holds those of NVFP4 exactly and rounds those of INT8.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoencoder import Autoencoder, load_vae
from formats import decoded, encode_int8, encode_nvfp4
from networks import IMAGE, TEXT, TEXT_THETA, TextToImage, is_nvfp4
from sampling import GUIDANCE, SHIFT, STEPS
from training_sizes import GROUPS

FILES = dict(
    text_encoder="text_encoder/model.safetensors",
    transformer="transformer/diffusion_pytorch_model.safetensors",
    vae="vae/diffusion_pytorch_model.safetensors",
)
INDEX = dict(
    _class_name="ZImagePipeline",
    _diffusers_version="0.42.1",
    scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"],
    text_encoder=["transformers", "Qwen3Model"],
    tokenizer=["transformers", "Qwen2Tokenizer"],
    transformer=["diffusers", "ZImageTransformer2DModel"],
    vae=["diffusers", "AutoencoderKL"],
)
SCHEDULER = dict(
    _class_name="FlowMatchEulerDiscreteScheduler", _diffusers_version="0.42.1", num_train_timesteps=1000, shift=SHIFT, use_dynamic_shifting=False
)


def defaults() -> dict[str, Any]:
    """`zimage.json`: the defaults of a request, and the sizes of the training pictures."""
    sizes = list(dict.fromkeys(group.size for group in GROUPS))
    return dict(steps=STEPS, guidance=GUIDANCE, width=256, height=256, sizes=sizes)


def parts_of(model: TextToImage, vae: Autoencoder) -> dict[str, nn.Module]:
    return dict(text_encoder=model.text_encoder, transformer=model.transformer, vae=vae)


def stored(part: str, module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a part in the stored formats; small ones are BF16."""
    tensors: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        value = value.detach().float().cpu()
        if part == "vae" and value.ndim > 1:
            tensors |= encode_int8(name, value)
        elif part != "vae" and is_nvfp4(name, value):
            tensors |= encode_nvfp4(name, value)
        else:
            tensors[name] = value.bfloat16()
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def read_part(folder: Path, part: str, module: nn.Module) -> None:
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    module.load_state_dict(decoded(load_file(folder / FILES[part]), shapes))


def read_weights(folder: Path, model: TextToImage) -> None:
    """Reads the text encoder and the transformer of a stored model folder."""
    read_part(folder, "text_encoder", model.text_encoder)
    read_part(folder, "transformer", model.transformer)


def read_vae(folder: Path) -> Autoencoder:
    vae, config = Autoencoder(), json.loads((folder / "vae/config.json").read_text())
    vae.shift, vae.scale = config["shift_factor"], config["scaling_factor"]
    read_part(folder, "vae", vae)
    return vae.eval()


def plain(part: str, module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a part as diffusers and transformers expect them."""
    tensors = {name: value.to(dtype).contiguous() for name, value in module.state_dict().items()}
    if part == "text_encoder":
        last = TEXT["num_hidden_layers"] - 1
        tensors |= {k.replace(f"layers.{last - 1}.", f"layers.{last}."): v.clone() for k, v in tensors.items() if f"layers.{last - 1}." in k}
        tensors["norm.weight"] = torch.ones(TEXT["hidden_size"], dtype=dtype)
    return tensors


def write(model: TextToImage, vae: Autoencoder, tokenizer: Path, out: Path, dtype: torch.dtype | None = None) -> None:
    """Writes a folder in the stored formats, or with all tensors in `dtype`."""
    for part, module in parts_of(model, vae).items():
        path = out / FILES[part]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(plain(part, module, dtype) if dtype else stored(part, module), path, metadata={"format": "pt"})
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text())
    end = next(int(n) for n, token in settings["added_tokens_decoder"].items() if token["content"] == "<|im_end|>")
    text = dict(
        architectures=["Qwen3Model"], model_type="qwen3", **TEXT, hidden_act="silu", attention_bias=False, tie_word_embeddings=True,
        eos_token_id=end, rope_parameters=dict(rope_type="default", rope_theta=TEXT_THETA), dtype=str(dtype or torch.bfloat16).removeprefix("torch."),
    )  # fmt: skip
    configs = {
        "model_index.json": INDEX,
        "zimage.json": defaults(),
        "scheduler/scheduler_config.json": SCHEDULER,
        "text_encoder/config.json": text,
        "transformer/config.json": dict(_class_name="ZImageTransformer2DModel", _diffusers_version="0.42.1", **IMAGE),
        "vae/config.json": vae.config() | dict(_diffusers_version="0.42.1"),
    }
    for name, config in configs.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text((json.dumps(config) if name == "zimage.json" else json.dumps(config, indent=2)) + "\n")
    if tokenizer.resolve() != (out / "tokenizer").resolve():
        shutil.copytree(tokenizer, out / "tokenizer", dirs_exist_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("target/emoji"), help="the folder that vae.py and training.py wrote")
    parser.add_argument("--model", type=Path, help="a stored model folder, instead of WORK")
    parser.add_argument("--out", type=Path, required=True)
    plain_floats = parser.add_mutually_exclusive_group()
    plain_floats.add_argument("--bf16", dest="dtype", action="store_const", const=torch.bfloat16, help="write bfloat16 for diffusers")
    plain_floats.add_argument("--f32", dest="dtype", action="store_const", const=torch.float32, help="write float32 for diffusers")
    args = parser.parse_args()
    model = TextToImage()
    if args.model:
        read_weights(args.model, model)
        vae, tokenizer = read_vae(args.model), args.model / "tokenizer"
    else:
        model.load_state_dict(torch.load(args.work / "state.pt", map_location="cpu")["model"])
        vae, tokenizer = load_vae(args.work, torch.device("cpu")), args.work / "tokenizer"
        if args.dtype:
            raise SystemExit("--bf16 and --f32 convert a stored folder: name it with --model")
    write(model, vae, tokenizer, args.out, args.dtype)
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
