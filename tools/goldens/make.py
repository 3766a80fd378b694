"""Makes tests/goldens: small random models, and the results of diffusers in float32 on the CPU."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ZImagePipeline
from PIL import Image
from safetensors.torch import save_file

import models
from cases import COUNTS, FEATURES, FORWARDS, LOOPS, PROMPTS, SEEDS, SEQUENCE, STEPS, Forward, Loop

ROOT = Path(__file__).resolve().parents[2] / "tests" / "goldens"
Tensors = dict[str, torch.Tensor]


def load(folder: Path) -> ZImagePipeline:
    """The pipeline that diffusers loads from the files, in float32 (`dtype` alone does not convert
    16-bit tensors of a mixed file)."""
    pipe = ZImagePipeline.from_pretrained(folder, dtype=torch.float32).to(dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float32)


def padded(n: int) -> int:
    return n + (-n) % 32


# Stage 1 and 2: tokens and text features


def token_cases(pipe: ZImagePipeline) -> list[dict[str, Any]]:
    """The template text and ids of every prompt, cut to 512, without padding."""
    out = []
    for name, prompt in PROMPTS.items():
        text = pipe.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        cut = pipe.tokenizer([text], padding="max_length", max_length=512, truncation=True)
        ids = [i for i, keep in zip(cut.input_ids[0], cut.attention_mask[0]) if keep]
        out.append({"name": name, "prompt": prompt, "template": text, "ids": ids})
    return out


def text_cases(pipe: ZImagePipeline, save: Tensors) -> list[dict[str, Any]]:
    """`text.{name}.features`, and every earlier hidden state of the first prompt."""
    encoder = pipe.text_encoder
    layers = (encoder.model if hasattr(encoder, "model") else encoder).layers
    for name in FEATURES:
        seen: list[torch.Tensor] = []
        hooks = [layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out)) for layer in layers]
        hooks.append(layers[0].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0])))
        features = pipe.encode_prompt([PROMPTS[name]], do_classifier_free_guidance=False)[0][0]
        for hook in hooks:
            hook.remove()
        assert torch.equal(features, seen[-2][0, : len(features)]), "hidden_states[-2] is the output of block L-1 of L"
        save[f"text.{name}.features"] = features
        if name == FEATURES[0]:
            for i, hidden in enumerate(seen[:-1]):
                save[f"text.{name}.hidden.{i}"] = hidden[0, : len(features)]
    return [{"name": name, "prompt": PROMPTS[name]} for name in FEATURES]


# Stage 3: the transformer, block by block


def forward_inputs(pipe: ZImagePipeline, case: Forward) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    config = pipe.transformer.config
    latents = randn(100, len(case.captions), config.in_channels, case.height, case.width)
    captions = [2.0 * randn(200 + i, n, config.cap_feat_dim) for i, n in enumerate(case.captions)]
    return latents, torch.tensor(case.times), captions


def velocity(pipe: ZImagePipeline, case: Forward) -> torch.Tensor:
    """The transformer's output for a case, [B, C, h, w]."""
    latents, times, captions = forward_inputs(pipe, case)
    out = pipe.transformer(list(latents.unsqueeze(2).unbind(0)), times, captions, return_dict=False)[0]
    return torch.stack(out).squeeze(2)


def forward_case(pipe: ZImagePipeline, case: Forward, save: Tensors) -> dict[str, Any]:
    """Inputs, velocity and the output of every block, item by item without the padding between
    items."""
    transformer = pipe.transformer
    image_tokens = case.height * case.width // 4
    image, captions = padded(image_tokens), [padded(n) for n in case.captions]
    lengths = {"image": [image] * len(captions), "caption": captions, "joint": [image + n for n in captions]}
    prefix = f"transformer.{case.name}"
    hooks = []

    def keep(name: str, tensor: torch.Tensor, rows: list[int]) -> None:
        for i, n in enumerate(rows):
            save[f"{prefix}.{name}.{i}"] = tensor[i, :n]

    def watch(module: torch.nn.Module, name: str, rows: list[int], before: bool = False) -> None:
        if before:
            hook = module.register_forward_pre_hook(lambda _, args: keep(name, args[0], rows))
        else:
            hook = module.register_forward_hook(lambda _, __, out: keep(name, out, rows))
        hooks.append(hook)

    hooks.append(transformer.t_embedder.register_forward_hook(lambda _, __, out: save.update({f"{prefix}.t_emb": out})))
    watch(transformer.all_final_layer["2-1"], "final", [image_tokens] * len(captions))
    if case.blocks:
        watch(transformer.noise_refiner[0], "image_tokens", lengths["image"], before=True)
        watch(transformer.context_refiner[0], "caption_tokens", lengths["caption"], before=True)
        for stage, rows in (("noise_refiner", "image"), ("context_refiner", "caption"), ("layers", "joint")):
            for i, block in enumerate(getattr(transformer, stage)):
                watch(block, f"{stage}.{i}", lengths[rows])
    latents, times, features = forward_inputs(pipe, case)
    save[f"{prefix}.latents"], save[f"{prefix}.times"] = latents, times
    save.update({f"{prefix}.caption.{i}": f for i, f in enumerate(features)})
    save[f"{prefix}.velocity"] = velocity(pipe, case)
    for hook in hooks:
        hook.remove()
    return {
        "name": case.name, "batch": len(captions), "height": case.height, "width": case.width,
        "image_tokens": image_tokens, "image_padded": image,
        "caption_tokens": case.captions, "caption_padded": captions, "times": case.times, "blocks": case.blocks,
    }  # fmt: skip


# Stage 4 to 6 and 8: schedule and loops


def schedule_cases(pipe: ZImagePipeline, save: Tensors) -> dict[str, Any]:
    """`schedule.{N}.{sigmas,timesteps,times,deltas}` with the pipeline's own expressions."""
    scheduler = pipe.scheduler
    for n in STEPS:
        scheduler.set_timesteps(n, sigmas=torch.linspace(1.0, 1 / n, n).tolist(), mu=1.0)
        t = scheduler.timesteps
        save[f"schedule.{n}.sigmas"] = scheduler.sigmas.clone()
        save[f"schedule.{n}.timesteps"] = t.clone()
        save[f"schedule.{n}.times"] = (1000 - t) / 1000
        save[f"schedule.{n}.deltas"] = scheduler.sigmas[1:] - scheduler.sigmas[:-1]
    return {"shift": scheduler.config.shift, "steps": STEPS}


def loop_case(pipe: ZImagePipeline, case: Loop, save: Tensors) -> dict[str, Any]:
    """Initial noise, latents after every step and RGB8; lists the steps in which guidance and its
    cap apply.

    With the cap it also saves the transformer's output of every step, prompts first, then
    negatives."""
    prefix, cap = f"loop.{case.name}", case.cfg_normalization
    batch = len(case.prompts) * case.count
    ratios: list[list[float]] = []
    first: list[torch.Tensor] = []

    def seen(_: Any, args: tuple, out: tuple) -> None:
        pred = torch.stack(out[0]).squeeze(2)
        first.append(torch.stack(args[0]).squeeze(2)[:batch])
        if cap:
            save[f"{prefix}.velocity.{len(ratios)}"] = pred
        guided = len(pred) == 2 * batch
        ratios.append([])
        for pos, neg in zip(pred[:batch], pred[batch:] if guided else []):
            ratios[-1].append(float((pos + case.guidance * (pos - neg)).norm() / pos.norm()))

    def step(_: Any, i: int, __: Any, kwargs: dict[str, torch.Tensor]) -> dict:
        save[f"{prefix}.step.{i}"] = kwargs["latents"].clone()
        return {}

    hook = pipe.transformer.register_forward_hook(seen)
    generators = [generator(s) for s in case.seeds]
    images = pipe(
        list(case.prompts),
        height=case.height,
        width=case.width,
        num_inference_steps=case.steps,
        guidance_scale=case.guidance,
        cfg_normalization=cap,
        cfg_truncation=case.cfg_truncation,
        negative_prompt=None if case.negatives is None else list(case.negatives),
        num_images_per_prompt=case.count,
        generator=generators if len(generators) > 1 else generators[0],
        callback_on_step_end=step,
        output_type="pil",
    ).images
    hook.remove()
    save[f"{prefix}.noise"] = first[0]
    save[f"{prefix}.rgb"] = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    guided = [bool(r) for r in ratios]
    capped = [[cap > 0 and x > cap for x in r] for r in ratios]
    if cap:
        assert any(len(set(row)) == 2 for row in capped), f"the cap must bite for one item only: {ratios}"
        assert all(abs(x / cap - 1) > 1e-3 for r in ratios for x in r), f"too near the cap: {ratios}"
    if case.cfg_truncation < 1:
        assert set(guided) == {True, False}, guided
    return {
        "name": case.name, "prompts": case.prompts, "negatives": case.negatives, "height": case.height,
        "width": case.width, "steps": case.steps, "seeds": case.seeds, "guidance": case.guidance,
        "cfg_normalization": cap, "cfg_truncation": case.cfg_truncation, "count": case.count,
        "guided": guided, "capped": capped,
    }  # fmt: skip


# Stage 7: the autoencoder


def vae_case(pipe: ZImagePipeline, save: Tensors) -> dict[str, Any]:
    """Encodes one picture (48 x 32) and decodes two latents (6 x 4), with intermediate outputs."""
    vae, height, width = pipe.vae, 48, 32
    rng = np.random.Generator(np.random.PCG64(77))
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 / width, y * 255 / height, 127 + 120 * np.sin(x / 3) * np.cos(y / 5)], -1)
    rgb = np.clip(smooth + 20 * rng.standard_normal(smooth.shape), 0, 255).astype(np.uint8)
    image = pipe.image_processor.preprocess(Image.fromarray(rgb))
    latents = randn(300, 2, vae.config.latent_channels, height // 8, width // 8)

    hooks = []

    def watch(module: torch.nn.Module, name: str) -> None:
        hooks.append(module.register_forward_hook(lambda _, __, out: save.update({name: out[:1].clone()})))

    for half, blocks in (("encoder", vae.encoder.down_blocks), ("decoder", vae.decoder.up_blocks)):
        net = getattr(vae, half)
        watch(net.mid_block, f"vae.{half}.mid_block")
        for i in (2, 3) if half == "encoder" else (0, 1):  # the small ones
            watch(blocks[i], f"vae.{half}.{'down' if half == 'encoder' else 'up'}_blocks.{i}")
    watch(vae.decoder.conv_in, "vae.decoder.conv_in")
    posterior = vae.encode(image).latent_dist
    scaled = latents / vae.config.scaling_factor + vae.config.shift_factor
    decoded = vae.decode(scaled, return_dict=False)[0]
    for hook in hooks:
        hook.remove()
    save["vae.encode.rgb"], save["vae.encode.image"] = torch.from_numpy(rgb), image
    save["vae.encode.moments"], save["vae.encode.mode"] = posterior.parameters, posterior.mode()
    save["vae.encode.latents"] = (posterior.mode() - vae.config.shift_factor) * vae.config.scaling_factor
    save["vae.decode.latents"], save["vae.decode.z"], save["vae.decode.image"] = latents, scaled, decoded
    pictures = pipe.image_processor.postprocess(decoded, output_type="pil")
    save["vae.decode.rgb"] = torch.from_numpy(np.stack([np.asarray(p) for p in pictures]))
    return {"height": height, "width": width}


# Stage 5: noise, the same for every model


def noise(folder: Path) -> None:
    """`noise.{seed}.{count}`. Long ones have both ends, and the SHA-256 of all little-endian
    bytes."""
    save: Tensors = {}
    cases = []
    for seed in SEEDS:
        for count in COUNTS:
            values = randn(seed, count)
            digest = hashlib.sha256(values.numpy().astype("<f4").tobytes()).hexdigest()
            cases.append({"seed": seed, "count": count, "sha256": digest, "whole": count <= 1023})
            if count <= 1023:
                save[f"noise.{seed}.{count}"] = values
            else:
                save[f"noise.{seed}.{count}.head"], save[f"noise.{seed}.{count}.tail"] = values[:64], values[-64:]
    save |= {f"sequence.42.{i}": values for i, values in enumerate(sequence())}
    _save(folder / "noise", save, {"cases": cases, "sequence": {"seed": 42, "counts": SEQUENCE}})


def sequence() -> list[torch.Tensor]:
    """Draws of several lengths from one generator: a short draw may leave half a pair to the
    next."""
    one = generator(42)
    return [torch.randn(count, generator=one) for count in SEQUENCE]


def _save(stem: Path, tensors: Tensors, case: dict[str, Any]) -> None:
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.uint8 or (tensor.dtype == torch.float32 and tensor.isfinite().all()), name
    tensors = {name: t.detach().clone().contiguous() for name, t in sorted(tensors.items())}
    save_file(tensors, stem.with_suffix(".safetensors"))
    text = json.dumps(case, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+(-?[\d.e+-]+(,\s+-?[\d.e+-]+)*)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", text)
    stem.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


@torch.no_grad()
def golden(spec: models.Spec, root: Path) -> None:
    """Writes one model's folder, its golden tensors and the description of its cases."""
    models.write(spec, root / spec.name)
    pipe, save = load(root / spec.name), {}
    case = {
        "model": spec.name,
        "tokens": token_cases(pipe),
        "text": text_cases(pipe, save),
        "transformer": [forward_case(pipe, forward, save) for forward in FORWARDS],
        "schedule": schedule_cases(pipe, save),
        "loops": [loop_case(pipe, loop, save) for loop in LOOPS],
        "vae": vae_case(pipe, save),
    }
    _save(root / spec.name, save, case)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT, help="folder to fill (default: tests/goldens)")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    out.mkdir(parents=True, exist_ok=True)
    noise(out)
    for spec in models.SPECS:
        shutil.rmtree(out / spec.name, ignore_errors=True)
        golden(spec, out)


if __name__ == "__main__":
    main()
