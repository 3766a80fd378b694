"""Checks the goldens: every tensor matters, float32 is accurate enough, and the small tokenizers
behave like Qwen3's."""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import make
import noise
from cases import COUNTS, FEATURES, FORWARDS, PROMPTS, SEEDS, SEQUENCE

#: The least change of the output, relative to its norm, when one tensor is wrong.
MOVES = 5e-3


def distance(out: torch.Tensor, ref: torch.Tensor) -> float:
    return float((out.double() - ref.double()).norm() / ref.double().norm())


def wrong(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The possible mistakes of a loader or a model with one tensor: omitted, or in another
    order."""
    yield "zero", torch.zeros_like(tensor)
    if tensor.dim() == 1 and name.endswith("weight"):
        yield "one", torch.ones_like(tensor)
    yield "reversed", tensor.flatten().flip(0).view_as(tensor)


def exempt(name: str, layers: int) -> bool:
    """Tensors that cannot change the output: the unused end of the text encoder, and a bias that
    softmax cancels."""
    name = name.removeprefix("model.")
    return name in ("norm.weight", "lm_head.weight") or name.startswith(f"layers.{layers - 1}.") or "to_k.bias" in name


def sensitivity(
    module: torch.nn.Module, part: str, run: Callable[[], torch.Tensor], skip: Callable[[str], bool]
) -> None:
    """Breaks each tensor in turn and requires that the output changes."""
    ref, moved = run(), []
    for name, parameter in module.named_parameters():
        kept = parameter.detach().clone()
        for mistake, values in wrong(name, kept):
            parameter.data.copy_(values)
            moved.append((distance(run(), ref), mistake, name))
        parameter.data.copy_(kept)
    for d, mistake, name in moved:
        assert skip(name) == (d < MOVES), f"{part} {name} {mistake}: moved by {d:.1e}"
    rest = sorted(m for m in moved if not skip(m[2]))
    least = ", ".join(f"{d:.3f} {name} {mistake}" for d, mistake, name in rest[:3])
    print(f"  {part}: {len(rest)} mistakes, each moves the output; least: {least}")


@torch.no_grad()
def check_model(root: Path, name: str) -> None:
    """Runs all checks of one model."""
    print(name)
    pipe = make.load(root / name)
    goldens = load_file(root / f"{name}.safetensors")
    case = json.loads((root / f"{name}.json").read_text())

    plain = Tokenizer.from_file(str(root / name / "tokenizer" / "tokenizer.json"))
    plain.no_padding(), plain.no_truncation()
    for t in case["tokens"]:
        assert plain.encode(t["template"]).ids[:512] == t["ids"], t["name"]
        assert t["template"] == f"<|im_start|>user\n{PROMPTS[t['name']]}<|im_end|>\n<|im_start|>assistant\n"

    def text() -> torch.Tensor:
        return torch.cat([pipe.encode_prompt([PROMPTS[n]], do_classifier_free_guidance=False)[0][0] for n in FEATURES])

    layers = pipe.text_encoder.config.num_hidden_layers
    vae, image, z = pipe.vae, goldens["vae.encode.image"], goldens["vae.decode.z"]
    sensitivity(pipe.text_encoder, "text features", text, lambda n: exempt(n, layers))
    sensitivity(pipe.transformer, "velocity", lambda: make.velocity(pipe, FORWARDS[0]), lambda n: False)
    sensitivity(vae.encoder, "moments", lambda: vae.encode(image).latent_dist.parameters, lambda n: exempt(n, 0))
    sensitivity(vae.decoder, "decode", lambda: vae.decode(z).sample, lambda n: exempt(n, 0))

    exact = copy.deepcopy(pipe)
    exact.text_encoder.double(), exact.transformer.double(), exact.vae.double()
    for forward in FORWARDS:
        latents, times, captions = make.forward_inputs(pipe, forward)
        images = list(latents.double().unsqueeze(2).unbind(0))
        out = exact.transformer(images, times.double(), [c.double() for c in captions], return_dict=False)[0]
        d = distance(goldens[f"transformer.{forward.name}.velocity"], torch.stack(out).squeeze(2))
        alone = [pipe.transformer([latents[i : i + 1].transpose(0, 1)], times[i : i + 1], [c], return_dict=False)[0][0]
                 for i, c in enumerate(captions)]  # fmt: skip
        b = distance(torch.stack(alone).squeeze(2), goldens[f"transformer.{forward.name}.velocity"])
        print(f"  velocity, {forward.name}: float32 is {d:.1e} from float64; items one by one differ by {b:.1e}")
        assert d < 1e-5 and b < 1e-5
    ids = torch.tensor([case["tokens"][1]["ids"]])
    hidden = exact.text_encoder(input_ids=ids, output_hidden_states=True).hidden_states[-2][0]
    far = {
        "text features": distance(goldens["text.short.features"], hidden),
        "moments": distance(goldens["vae.encode.moments"], exact.vae.encode(image.double()).latent_dist.parameters),
        "decode": distance(goldens["vae.decode.image"], exact.vae.decode(z.double()).sample),
    }
    print("  float32 from float64:", ", ".join(f"{k} {v:.1e}" for k, v in far.items()))
    assert max(far.values()) < 1e-5


def check_template(root: Path, qwen: Path) -> None:
    """Compares with the real tokenizer: the template renders the same text, and pre-tokenizer and
    added tokens agree."""
    real = AutoTokenizer.from_pretrained(qwen)
    layout = json.loads((qwen / "tokenizer.json").read_text())
    for spec in make.models.SPECS:
        small = AutoTokenizer.from_pretrained(root / spec.name / "tokenizer")
        for prompt in PROMPTS.values():
            turn = [{"role": "user", "content": prompt}]
            args = dict(tokenize=False, add_generation_prompt=True)
            for thinking in (True, False):
                texts = [t.apply_chat_template(turn, enable_thinking=thinking, **args) for t in (real, small)]
                assert texts[0] == texts[1]
        own = json.loads((root / spec.name / "tokenizer" / "tokenizer.json").read_text())
        for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            assert own[key] == layout[key], key
        plain = [[{k: v for k, v in t.items() if k != "id"} for t in f["added_tokens"]] for f in (own, layout)]
        assert plain[0] == plain[1]
    print("template, pre-tokenizer and added tokens are those of", qwen)


def check_noise() -> None:
    """Checks that the numpy version gives torch's bits, and measures the change of torch without
    AVX2."""
    code = f"""import sys, torch
for seed in {SEEDS}:
    for n in {COUNTS}:
        draw = torch.randn(n, generator=torch.Generator().manual_seed(seed))
        sys.stdout.buffer.write(draw.numpy().tobytes())"""
    draws = []
    for level in ("default", "avx2"):
        env = os.environ | {"ATEN_CPU_CAPABILITY": level}
        out = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True).stdout
        draws.append(np.frombuffer(out, dtype=np.float32))
    twin = np.concatenate([noise.Generator(seed).randn(n) for seed in SEEDS for n in COUNTS])
    assert twin.tobytes() == draws[1].tobytes()
    sequence = noise.Generator(42)
    for n, expected in zip(SEQUENCE, make.sequence()):
        assert sequence.randn(n).tobytes() == expected.numpy().tobytes(), n
    differ, far = int((draws[0] != draws[1]).sum()), np.abs(draws[0] - draws[1]).max()
    print(f"noise: the twin gives all {twin.size} values bit for bit")
    print(f"  without AVX2 torch gives {differ} other values, apart by at most {far:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goldens", type=Path, default=make.ROOT)
    parser.add_argument("--qwen", type=Path, help="folder with Qwen3's own tokenizer.json and tokenizer_config.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for spec in make.models.SPECS:
        check_model(args.goldens, spec.name)
    check_noise()
    if args.qwen:
        check_template(args.goldens, args.qwen)


if __name__ == "__main__":
    main()
