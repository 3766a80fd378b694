"""The inputs of single stages, and the results of diffusers in the dtype of its networks."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator

import numpy as np
import torch
from diffusers import ZImagePipeline
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel

import model  # noqa: F401  (makes the modules of tools/goldens known)
from full_width import cast
from make import generator, randn

Tensors = dict[str, torch.Tensor]

PROMPTS = {
    "empty": "",
    "short": "a red fox in the snow",
    "medium": "two owls on a wooden table beside a river, in the light of a summer morning, painted with thick strokes of "
    "oil in green, orange and a little blue, with mountains and a small village far behind them",
    "long": ", ".join(f"a tower of {i} stones beside a house with {7 * i} windows" for i in range(30)),
}
TIMES = [0.1, 0.5, 0.9]


@dataclass(frozen=True)
class Sizes:
    """Height and width in pixels: of the picture, and of pictures whose image tokens need
    padding."""

    picture: tuple[int, int]
    ragged: tuple[int, int]


FULL = Sizes(picture=(1024, 1024), ragged=(1040, 976))
SMALL = Sizes(picture=(96, 64), ragged=(80, 48))


@dataclass(frozen=True)
class Forward:
    """One call of the transformer: latents [P, C, h, w], one time, and the captions of N items by
    prompt name; item i uses latents i mod P."""

    name: str
    latents: torch.Tensor
    time: float
    captions: list[str]


@dataclass(frozen=True)
class Sampling:
    """The steps and the guidance of a picture."""

    steps: int
    guidance: float


#: The picture of a comparison that chooses no others.
PICTURE = {"picture": Sampling(steps=4, guidance=2.0)}


@dataclass(frozen=True)
class Picture:
    """One call of the pipeline."""

    prompt: str
    negative: str
    size: tuple[int, int]
    sampling: Sampling
    seed: int = 5


@dataclass(frozen=True)
class Cases:
    """The inputs of every stage. They are rounded to bf16 already, so that no side rounds them
    first."""

    ids: dict[str, list[int]]
    forwards: list[Forward]
    latents: torch.Tensor
    pictures: dict[str, Picture]


def cases(pipe: ZImagePipeline, sizes: Sizes, samplings: dict[str, Sampling]) -> Cases:
    """Prompts of different length and one of ids from the whole vocabulary. At each time there are
    pictures with ragged captions, and one picture with guidance: a caption and a negative one."""
    ids = {name: token_ids(pipe, prompt) for name, prompt in PROMPTS.items()}
    ids["vocabulary"] = torch.randint(pipe.text_encoder.config.vocab_size, (77,), generator=generator(1)).tolist()

    def latents(seed: int, count: int, size: tuple[int, int]) -> torch.Tensor:
        channels = pipe.transformer.config.in_channels
        return randn(seed, count, channels, size[0] // 8, size[1] // 8).bfloat16()

    forwards = []
    for i, time in enumerate(TIMES):
        forwards.append(Forward(f"ragged-{time}", latents(10 + i, 2, sizes.ragged), time, ["long", "short"]))
        forwards.append(Forward(f"guided-{time}", latents(20 + i, 1, sizes.picture), time, ["medium", "empty"]))
    pictures = {
        name: Picture(PROMPTS["medium"], PROMPTS["short"], sizes.picture, sampling) for name, sampling in samplings.items()
    }
    return Cases(ids, forwards, latents(30, 1, sizes.picture), pictures)


def token_ids(pipe: ZImagePipeline, prompt: str) -> list[int]:
    """The ids that the pipeline encodes, without padding."""
    turn = [{"role": "user", "content": prompt}]
    text = pipe.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    return pipe.tokenizer(text, max_length=512, truncation=True).input_ids


def engine_inputs(cases: Cases, captions: Tensors) -> Tensors:
    """The same inputs in the format of `zimage stages`."""
    inputs = {f"text.{name}.ids": torch.tensor(ids) for name, ids in cases.ids.items()}
    for forward in cases.forwards:
        prefix = f"transformer.{forward.name}"
        inputs[f"{prefix}.latents"], inputs[f"{prefix}.times"] = forward.latents, torch.tensor([forward.time])
        inputs |= {f"{prefix}.caption.{i}": captions[name].clone() for i, name in enumerate(forward.captions)}
    return inputs | {"vae.decode.latents": cases.latents}


@contextmanager
def in_float32(*networks: torch.nn.Module) -> Iterator[None]:
    """The networks, widened exactly to float32 and computing in it: no TF32, and plain
    attention."""
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for network in networks:
        cast(network, torch.float32)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    for network in networks:
        cast(network, torch.bfloat16)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


@torch.no_grad()
def features(encoder: torch.nn.Module, ids: dict[str, list[int]]) -> Tensors:
    """`text.NAME.features` of each prompt's own tokens, float32 on the CPU; the batch is padded to
    512 as in the pipeline."""
    tokens = torch.zeros(len(ids), 512, dtype=torch.long)
    mask = torch.zeros(len(ids), 512, dtype=torch.bool)
    for row, prompt in enumerate(ids.values()):
        tokens[row, : len(prompt)], mask[row, : len(prompt)] = torch.tensor(prompt), True
    device = encoder.embed_tokens.weight.device
    hidden = encoder(
        input_ids=tokens.to(device), attention_mask=mask.to(device), output_hidden_states=True
    ).hidden_states[-2]
    own = {name: hidden[row, : len(prompt)] for row, (name, prompt) in enumerate(ids.items())}
    return {f"text.{name}.features": rows.float().cpu() for name, rows in own.items()}


@torch.no_grad()
def velocities(transformer: torch.nn.Module, cases: Cases, captions: Tensors) -> Tensors:
    """`transformer.NAME.velocity` [N, C, h, w], float32 on the CPU."""
    out = {}
    for forward in cases.forwards:
        latents = forward.latents.to(transformer.device, transformer.dtype)
        items = [latents[i % len(latents)].unsqueeze(1) for i in range(len(forward.captions))]
        times = torch.full((len(items),), forward.time, device=latents.device)
        own = [captions[name].to(latents) for name in forward.captions]
        velocity = transformer(items, times, own, return_dict=False)[0]
        out[f"transformer.{forward.name}.velocity"] = torch.stack(list(velocity)).squeeze(2).float().cpu()
    return out


@torch.no_grad()
def decoded(vae: torch.nn.Module, cases: Cases) -> Tensors:
    """`vae.decode.image` [B, H, W, 3], float32 on the CPU."""
    z = cases.latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    return {"vae.decode.image": vae.decode(z, return_dict=False)[0].permute(0, 2, 3, 1).float().cpu()}


def results(pipe: ZImagePipeline, cases: Cases, captions: Tensors) -> Tensors:
    """The results of every stage."""
    velocity = velocities(pipe.transformer, cases, captions)
    return features(pipe.text_encoder, cases.ids) | velocity | decoded(pipe.vae, cases)


def picture(pipe: ZImagePipeline, case: Picture) -> torch.Tensor:
    """The picture [H, W, 3], from torch's CPU noise."""
    image = pipe(
        case.prompt, negative_prompt=case.negative, height=case.size[0], width=case.size[1],
        num_inference_steps=case.sampling.steps, guidance_scale=case.sampling.guidance,
        generator=generator(case.seed),
    ).images[0]  # fmt: skip
    return pixels(image)


def pixels(image: Image.Image) -> torch.Tensor:
    """RGB values from 0 to 255, float32 [H, W, 3]."""
    return torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32))


class Largest:
    """The largest value read by any module of a network while this context is active."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.leaves = [module for module in network.modules() if not list(module.children())]
        self.values: list[torch.Tensor] = []

    def _see(self, _: torch.nn.Module, inputs: tuple) -> None:
        self.values += [value.abs().amax() for value in inputs if torch.is_tensor(value) and value.is_floating_point()]

    def __enter__(self) -> Largest:
        self.hooks = [leaf.register_forward_pre_hook(self._see) for leaf in self.leaves]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def value(self) -> float:
        return max(float(value) for value in self.values)
