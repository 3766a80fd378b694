"""Makes tests/lora: LoRA files for the golden model `single`, and the weights that PEFT, diffusers and LyCORIS merge
them into, in float32.

    python -m venv venv && venv/bin/pip install -r tools/lora/requirements.txt
    venv/bin/python tools/lora/make.py

Every case is a list of files with strengths, and the merged weights. A case has few and small layers: the names are
tested in Rust, the numbers here.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from lycoris.functional.general import apply_dora_scale, rebuild_tucker, tucker_weight_from_conv
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

ROOT = Path(__file__).resolve().parents[2] / "tests"
OUT = ROOT / "lora"
MODEL = ROOT / "goldens" / "single"
Tensors = dict[str, torch.Tensor]

CAPTION = "cap_embedder.1"
KEYS = "layers.0.attention.to_k"
QKV = ["layers.1.attention.to_q", "layers.1.attention.to_k", "layers.1.attention.to_v"]
TEXT = "layers.0.self_attn.k_proj"


def load() -> Tensors:
    """The weights of both networks as float32, those of the text encoder without `model.`."""
    transformer = load_file(MODEL / "transformer" / "diffusion_pytorch_model.safetensors")
    text = load_file(MODEL / "text_encoder" / "model.safetensors")
    weights = transformer | {name.removeprefix("model."): tensor for name, tensor in text.items()}
    return {name: tensor.float() for name, tensor in weights.items()}


WEIGHTS = load()


@dataclass
class File:
    tensors: Tensors
    strength: float = 1.0
    metadata: dict[str, str] | None = None


def write(name: str, files: list[File], merged: Tensors, layers: int) -> dict[str, object]:
    """Writes one case, and returns its entry in the list."""
    entries = []
    for i, file in enumerate(files):
        path = f"{name}_{i}.safetensors" if len(files) > 1 else f"{name}.safetensors"
        save_file({key: value.detach().contiguous() for key, value in file.tensors.items()}, OUT / path, file.metadata)
        entries.append({"file": path, "strength": file.strength, "tensors": len(file.tensors)})
    save_file({key: value.detach().float().contiguous() for key, value in merged.items()}, OUT / f"{name}.merged.safetensors")
    return {"name": name, "files": entries, "merged": f"{name}.merged.safetensors", "layers": layers}


class Layers(nn.Module):
    """Linear layers with weights of the model, under the paths of their names."""

    def __init__(self, weights: Tensors):
        super().__init__()
        for name, weight in weights.items():
            module: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            linear.weight.data = weight.clone()
            module.add_module(last, linear)

    def weights(self) -> Tensors:
        return {name: tensor for name, tensor in self.state_dict().items() if name.endswith(".weight")}


def fill(tensors: dict[str, nn.Parameter], seed: int) -> None:
    """Random values for every trained tensor. Magnitudes keep the order of a norm."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(tensors.items()):
        noise = torch.randn(tensor.shape, generator=generator)
        if "magnitude" in name or "dora_scale" in name:
            tensor.data *= 1 + 0.2 * noise
        else:
            tensor.data = 0.2 * noise


def peft(names: list[str], config: object, seed: int, weights: Tensors = WEIGHTS) -> tuple[Tensors, Tensors]:
    """The tensors as PEFT saves them, and the weights it merges."""
    model = get_peft_model(Layers({name: weights[f"{name}.weight"] for name in names}), config)
    marks = ("lora_", "hada_", "lokr_")
    fill({name: p for name, p in model.named_parameters() if any(mark in name for mark in marks)}, seed)
    tensors = {key: value.clone() for key, value in get_peft_model_state_dict(model).items()}
    return tensors, model.merge_and_unload().weights()


def lycoris(name: str, spelled: str, module: type, seed: int, **options: object) -> tuple[Tensors, Tensors]:
    """The tensors as LyCORIS saves them, and the weight that its forward pass uses."""
    weight = WEIGHTS[f"{name}.weight"]
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight.clone()
    layer = module(spelled, linear, **options).eval()
    fill(dict(layer.named_parameters()), seed)
    tensors = {f"{spelled}.{key}": value.clone() for key, value in layer.custom_state_dict().items()}
    merged = layer(torch.eye(weight.shape[1])).T
    return tensors, {f"{name}.weight": merged}


def spell(tensors: Tensors, changes: dict[str, str]) -> Tensors:
    """The tensors with parts of their names replaced."""
    out = {}
    for key, value in tensors.items():
        for old, new in changes.items():
            key = key.replace(old, new)
        out[key] = value
    return out


def of_diffusers(tensors: Tensors, names: list[str], metadata: dict | None = None) -> Tensors:
    """The weights that diffusers fuses after its own conversion of the names."""
    state = ZImagePipeline.lora_state_dict(dict(tensors))
    model = ZImageTransformer2DModel.from_pretrained(MODEL / "transformer", torch_dtype=torch.float32).float()
    model.load_lora_adapter(state, prefix="transformer", metadata=metadata)
    model.fuse_lora()
    model.unload_lora()
    fused = model.state_dict()
    return {f"{name}.weight": fused[f"{name}.weight"] for name in names}


def cases() -> list[dict[str, object]]:
    out = []
    lora = LoraConfig(r=4, lora_alpha=4, target_modules=[CAPTION, KEYS, TEXT])

    # PEFT's own spelling of both networks, without alpha; a lone to_k.
    tensors, merged = peft([CAPTION, KEYS, TEXT], lora, 1)
    out.append(write("peft", [File(tensors)], merged, 3))

    # ComfyUI's prefix and the text encoder's, in two precisions: the merge of what the file holds.
    tensors = {key: value.to(torch.bfloat16 if "lora_A" in key else torch.float16) for key, value in tensors.items()}
    model = get_peft_model(Layers({n: WEIGHTS[f"{n}.weight"] for n in [CAPTION, KEYS, TEXT]}), lora)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = tensors[name.replace(".default", "")].float()
    merged = model.merge_and_unload().weights()
    body = "base_model.model."
    tensors = spell(tensors, {f"{body}{TEXT}": f"text_encoder.model.{TEXT}", body: "diffusion_model."})
    out.append(write("halves", [File(tensors)], merged, 3))

    # A strength: PEFT's scaling is alpha / rank.
    half, _ = LoraConfig(r=4, lora_alpha=-2, target_modules=[KEYS]), None
    tensors, merged = peft([KEYS], half, 2)
    out.append(write("strength", [File(tensors, strength=-0.5)], merged, 1))

    # Kohya's spelling with alpha, read by diffusers.
    names = [CAPTION, KEYS, "layers.1.attention.to_out.0"]
    tensors, _ = peft(names, LoraConfig(r=4, lora_alpha=4, target_modules=names), 3)
    kohya = {}
    for key, value in tensors.items():
        module, suffix = key.removeprefix("base_model.model.").split(".lora_")
        spelled = f"lora_unet_{module.replace('.', '_')}"
        kohya[f"{spelled}.lora_{'down' if suffix.startswith('A') else 'up'}.weight"] = value
        kohya[f"{spelled}.alpha"] = torch.tensor(1.5)
    out.append(write("kohya", [File(kohya)], of_diffusers(kohya, names), 3))

    # Diffusers' own file, whose metadata has the alphas.
    names = [CAPTION, KEYS]
    tensors, _ = peft(names, LoraConfig(r=4, lora_alpha=4, target_modules=names), 4)
    tensors = spell(tensors, {"base_model.model.": "transformer."})
    config = {"r": 4, "lora_alpha": 6, "alpha_pattern": {"attention.to_k": 3}, "use_rslora": True, "target_modules": names}
    metadata = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in config.items()})}
    merged = of_diffusers(tensors, names, {f"transformer.{key}": value for key, value in config.items()})
    out.append(write("metadata", [File(tensors, metadata=metadata)], merged, 2))

    # ComfyUI's fused layer: PEFT on the stacked weight.
    fused = "layers.1.attention.qkv"
    stacked = {f"{fused}.weight": torch.cat([WEIGHTS[f"{name}.weight"] for name in QKV])}
    for name, config in [
        ("fused", LoraConfig(r=4, lora_alpha=4, target_modules=[fused])),
        ("fused_lokr", LoKrConfig(r=2, alpha=2, decompose_factor=4, target_modules=[fused])),
        ("fused_dora", LoraConfig(r=4, lora_alpha=4, use_dora=True, target_modules=[fused])),
    ]:
        tensors, merged = peft([fused], config, 5, stacked)
        parts = merged[f"{fused}.weight"].chunk(3)
        tensors = spell(tensors, {"base_model.model.": "diffusion_model."})
        merged = {f"{name}.weight": part for name, part in zip(QKV, parts)}
        out.append(write(name, [File(tensors)], merged, 1))

    # PEFT's other methods.
    for name, config in [
        ("peft_loha", LoHaConfig(r=3, alpha=3, target_modules=[CAPTION])),
        ("peft_lokr", LoKrConfig(r=3, alpha=3, decompose_both=True, decompose_factor=8, target_modules=[CAPTION])),
        ("peft_dora", LoraConfig(r=4, lora_alpha=4, use_dora=True, target_modules=[CAPTION])),
    ]:
        tensors, merged = peft([CAPTION], config, 6)
        out.append(write(name, [File(tensors)], merged, 1))

    # LyCORIS, with alpha and every decomposition.
    spelled = f"lycoris_{CAPTION.replace('.', '_')}"
    for name, module, options in [
        ("lycoris_locon", LoConModule, {"lora_dim": 4, "alpha": 1.5}),
        ("lycoris_loha", LohaModule, {"lora_dim": 3, "alpha": 2.0}),
        ("lycoris_lokr", LokrModule, {"lora_dim": 3, "alpha": 2.0, "factor": 4}),
        ("lycoris_lokr_both", LokrModule, {"lora_dim": 2, "alpha": 3.0, "factor": 8, "decompose_both": True}),
        ("lycoris_lokr_full", LokrModule, {"lora_dim": 4, "alpha": 8.0, "factor": 8, "full_matrix": True}),
        ("lycoris_dora_rows", LoConModule, {"lora_dim": 4, "alpha": 1.5, "weight_decompose": True}),
        ("lycoris_dora_columns", LoConModule, {"lora_dim": 4, "alpha": 1.5, "weight_decompose": True, "wd_on_out": False}),
        ("lycoris_dokr", LokrModule, {"lora_dim": 3, "alpha": 2.0, "factor": 4, "weight_decompose": True}),
        ("lycoris_doha", LohaModule, {"lora_dim": 3, "alpha": 2.0, "weight_decompose": True, "wd_on_out": False}),
    ]:
        tensors, merged = lycoris(CAPTION, spelled, module, 7, multiplier=1.0, **options)
        if name == "lycoris_lokr_full":
            # The placeholder of ai-toolkit, which is infinite in half precision.
            tensors[f"{spelled}.alpha"] = torch.tensor(1e10).half()
        out.append(write(name, [File(tensors)], merged, 1))

    # DoRA with a strength: the interpolation of LyCORIS (on columns) and of ComfyUI.
    locon = {"lora_dim": 4, "alpha": 1.5, "weight_decompose": True, "wd_on_out": False, "multiplier": 1.0}
    tensors, _ = lycoris(CAPTION, spelled, LoConModule, 8, **locon)
    up, down = (tensors[f"{spelled}.lora_{end}.weight"] for end in ("up", "down"))
    weight = WEIGHTS[f"{CAPTION}.weight"]
    merged = apply_dora_scale(weight, up @ down * (1.5 / 4), tensors[f"{spelled}.dora_scale"], 0.6)
    out.append(write("dora_strength", [File(tensors, strength=0.6)], {f"{CAPTION}.weight": merged}, 1))

    # Cores of decomposed convolutions, with a kernel of one element.
    def randn(name: str, *shape: int) -> torch.Tensor:
        return cores.setdefault(f"{spelled}.{name}", 0.2 * torch.randn(shape, generator=generator))

    generator = torch.Generator().manual_seed(12)
    for name in ("core_lora", "core_loha", "core_lokr"):
        cores: Tensors = {f"{spelled}.alpha": torch.tensor(2.0)}
        if name == "core_lora":
            up, down = randn("lora_up.weight", 64, 3, 1, 1), randn("lora_down.weight", 3, 48, 1, 1)
            delta = tucker_weight_from_conv(up, down, randn("lora_mid.weight", 3, 3, 1, 1))
        elif name == "core_loha":
            one, two = (
                rebuild_tucker(randn(f"hada_t{i}", 3, 3, 1, 1), randn(f"hada_w{i}_a", 3, 64), randn(f"hada_w{i}_b", 3, 48))
                for i in (1, 2)
            )
            delta = one * two
        else:
            inner = rebuild_tucker(randn("lokr_t2", 3, 3, 1, 1), randn("lokr_w2_a", 3, 8), randn("lokr_w2_b", 3, 8))
            delta = torch.kron(randn("lokr_w1", 8, 6), inner.reshape(8, 8))
        merged = {f"{CAPTION}.weight": WEIGHTS[f"{CAPTION}.weight"] + delta.reshape(64, 48) * (2 / 3)}
        out.append(write(name, [File(cores)], merged, 1))

    # A whole difference of a weight and its bias, as LyCORIS trains it.
    linear = nn.Linear(48, 64)
    linear.weight.data = WEIGHTS[f"{CAPTION}.weight"].clone()
    linear.bias.data = WEIGHTS[f"{CAPTION}.bias"].clone()
    layer = FullModule(spelled, linear, multiplier=1.0)
    layer.apply_to()
    generator = torch.Generator().manual_seed(9)
    layer.weight.data += 0.2 * torch.randn(layer.weight.shape, generator=generator)
    layer.bias.data += 0.2 * torch.randn(layer.bias.shape, generator=generator)
    tensors = {f"{spelled}.{key}": value.clone() for key, value in layer.custom_state_dict().items()}
    merged = {f"{CAPTION}.weight": layer.weight, f"{CAPTION}.bias": layer.bias}
    out.append(write("full", [File(tensors)], merged, 1))

    # Two files on one weight: the norms of the second are those of the first one's result.
    first, merged = peft([CAPTION], LoraConfig(r=4, lora_alpha=4, target_modules=[CAPTION]), 10)
    config = LoraConfig(r=4, lora_alpha=4, use_dora=True, target_modules=[CAPTION])
    second, merged = peft([CAPTION], config, 11, {key: value.detach() for key, value in merged.items()})
    out.append(write("stack", [File(first), File(second)], merged, 1))
    return out


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    (OUT / "cases.json").write_text(json.dumps(cases(), indent=1) + "\n")


if __name__ == "__main__":
    main()
