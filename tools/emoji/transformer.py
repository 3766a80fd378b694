"""Trains the embedded default's transformer with its text encoder, and writes the whole model
folder.

Run: python tools/emoji/transformer.py --work target/emoji --minutes 17 --out models/emoji
Needs: the output of data.py and vae.py in WORK, requirements.txt and one GPU (a CPU suffices for a
trial: --batch 8 --bank 64 --limit 20).

Flow matching: x_t = sigma·noise + (1 − sigma)·x0, and the transformer, given t = 1 − sigma,
predicts x0 − noise. Latents come from a bank on the device; a part of it is redrawn and re-encoded
at every step. The learning rate decays to zero with the time, so the result is complete whenever
the time ends. WORK/preview.png and OUT are written every five minutes.
"""

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

from captions import Picture, Scene, Writer
from networks import CAPTION_MULTIPLE, IMAGE, TEXT, TEXT_THETA, TextToImage
from pictures import Album, read_catalogue
from vae import save_sheet

TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
LONGEST = 2 * CAPTION_MULTIPLE
SHIFT = 3.0
STEPS = 8
#: `zimage.json`: the defaults of a request, and the sizes of the training pictures.
DEFAULTS = {"steps": STEPS, "guidance": 0.0, "width": 256, "height": 256, "sizes": [[256, 256]]}
REFRESH = 16  # a bank entry is used about this often before it is drawn anew
MUON_RATE, ADAM_RATE, WEIGHT_DECAY = 3e-3, 1.5e-3, 0.01
SAVE_EVERY = 300.0
PREVIEW = [
    "a red fox", "a fox", "a cat", "a dog and a cat", "a rocket", "a slice of pizza on a blue background", "a red apple",
    "a moon on the left and a rocket on the right, night-blue background", "a crown above a frog", "a blue elephant", "waving hand: dark skin tone",
    "a small ghost in the top left corner, purple background", "robot, black background", "a green heart", "An owl", "birthday cake, pink background",
]  # fmt: skip


class SceneStream(IterableDataset):
    """Endless chunks of scenes with their captions as padded tokens; each worker has its own
    seed."""

    def __init__(self, catalogue: list[Picture], tokenizer: Path, chunk: int):
        self.catalogue, self.tokenizer, self.chunk = catalogue, str(tokenizer), chunk

    def __iter__(self) -> Iterator[tuple[list[Scene], np.ndarray, np.ndarray]]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        worker = get_worker_info()
        writer = Writer(self.catalogue, seed=1000 + (worker.id if worker else 0))
        tokenizer = Tokenizer.from_file(self.tokenizer)
        while True:
            drawn = [writer.scene() for _ in range(self.chunk + self.chunk // 4)]
            encoded = tokenizer.encode_batch([TEMPLATE.format(s.caption) for s in drawn])
            fitting = [(s, e.ids) for s, e in zip(drawn, encoded) if len(e.ids) <= LONGEST][: self.chunk]
            yield [s for s, _ in fitting], *padded([ids for _, ids in fitting])


def padded(captions: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token lists as [n, LONGEST] padded with zeros, and their lengths."""
    tokens = np.zeros((len(captions), LONGEST), np.int64)
    for row, ids in zip(tokens, captions):
        row[: len(ids)] = ids
    return tokens, np.array([len(ids) for ids in captions])


class Bank:
    """Latents and captions on the device; the oldest are replaced first."""

    def __init__(self, size: int, encode: torch.nn.Module, album: Album, stream: Iterator, device: torch.device):
        self.latents = torch.empty(size, 16, 32, 32, dtype=torch.bfloat16, device=device)
        self.tokens = torch.zeros(size, LONGEST, dtype=torch.long, device=device)
        self.lengths = np.zeros(size, np.int64)
        self.encode, self.album, self.stream = encode, album, stream
        self.filled = self.next = 0
        self.rng = np.random.default_rng(0)

    @torch.no_grad()
    def refresh(self) -> None:
        scenes, tokens, lengths = next(self.stream)
        at = (self.next + np.arange(len(scenes))) % len(self.lengths)
        rows = torch.from_numpy(at).to(self.latents.device)
        self.latents[rows] = self.encode(self.album.draw(scenes)).bfloat16()
        self.tokens[rows] = torch.from_numpy(tokens).to(self.latents.device)
        self.lengths[at] = lengths
        self.next = (self.next + len(scenes)) % len(self.lengths)
        self.filled = max(self.filled, int(at.max()) + 1)

    def batch(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, tokens and lengths of entries with the same padded caption length; a quarter as
        many if the captions are long."""
        lengths = self.lengths[: self.filled]
        short = lengths <= CAPTION_MULTIPLE
        choose_short = self.rng.random() < short.mean()
        chosen = self.rng.choice(np.flatnonzero(short == choose_short), size if choose_short else max(size // 4, 1))
        rows = torch.from_numpy(chosen).to(self.latents.device, non_blocking=True)
        width = CAPTION_MULTIPLE if choose_short else LONGEST
        return self.latents[rows].float(), self.tokens[rows, :width], torch.from_numpy(lengths[chosen]).to(rows.device)


class Encode(torch.nn.Module):
    """Pictures in 0..1 → latents with mean 0 and standard deviation 1."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.encoder, self.shift, self.scale = vae.encoder, vae.config.shift_factor, vae.config.scaling_factor

    def forward(self, picture: Tensor) -> Tensor:
        with torch.autocast(picture.device.type, torch.bfloat16, enabled=picture.is_cuda):
            mean = self.encoder((picture * 2 - 1).contiguous(memory_format=torch.channels_last)).chunk(2, 1)[0]
        return (mean.float() - self.shift) * self.scale


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised by a Newton–Schulz iteration, and scaled to the size
    of AdamW's updates.

    Matrices of one shape are treated as one batch.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        shapes = sorted({tuple(p.shape) for p in parameters})
        self.stacks = [[p for p in parameters if tuple(p.shape) == shape] for shape in shapes]
        self.velocities = [torch.zeros_like(torch.stack(list(stack))) for stack in self.stacks]

    @staticmethod
    def orthogonal(matrices: Tensor) -> Tensor:
        tall = matrices.shape[-2] > matrices.shape[-1]
        x = (matrices.mT if tall else matrices).bfloat16()
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            square = x @ x.mT
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        return (x.mT if tall else x).float()

    @torch.no_grad()
    def step(self) -> None:
        options = self.param_groups[0]
        for stack, velocity in zip(self.stacks, self.velocities):
            gradient = torch.stack([p.grad for p in stack])
            velocity.mul_(options["momentum"]).add_(gradient)
            update = self.orthogonal(gradient + options["momentum"] * velocity)
            torch._foreach_mul_(stack, 1 - options["lr"] * options["weight_decay"])
            torch._foreach_add_(stack, list(update.unbind()), alpha=-0.2 * options["lr"] * math.sqrt(max(update.shape[1:])))


def optimizers(model: TextToImage, fused: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for the rest."""
    inner, outer = [], []
    for name, parameter in model.named_parameters():
        in_block = "layers." in name or "refiner." in name
        (inner if in_block and parameter.ndim == 2 and "adaLN" not in name else outer).append(parameter)
    adam = torch.optim.AdamW(outer, lr=ADAM_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=fused)
    muon = Muon(inner, lr=MUON_RATE, weight_decay=WEIGHT_DECAY)
    for optimizer in (adam, muon):
        optimizer.param_groups[0]["peak"] = optimizer.param_groups[0]["lr"]
    return [adam, muon]


def shifted(s: Tensor) -> Tensor:
    return SHIFT * s / (1 + (SHIFT - 1) * s)


def flow_loss(model: torch.nn.Module, latents: Tensor, tokens: Tensor, lengths: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    level = sigma[:, None, None, None]
    predicted = model(level * noise + (1 - level) * latents, 1 - sigma, tokens, lengths)
    return (predicted - (latents - noise)).square().mean()


@torch.no_grad()
def sample(model: TextToImage, vae: AutoencoderKL, tokens: Tensor, lengths: Tensor, steps: int = STEPS) -> Tensor:
    """Pictures in 0..1 by Euler steps; every caption starts from the noise of seed 0."""
    noise = torch.randn(1, 16, 32, 32, generator=torch.Generator("cpu").manual_seed(0)).to(tokens.device)
    x = noise.expand(len(tokens), -1, -1, -1)
    sigmas = torch.cat([shifted(torch.linspace(1, 1 / steps, steps)), torch.zeros(1)]).to(tokens.device)
    for now, after in zip(sigmas, sigmas[1:]):
        x = x - (after - now) * model(x, (1 - now).expand(len(x)), tokens, lengths)
    return (vae.decode(x / vae.config.scaling_factor + vae.config.shift_factor).sample * 0.5 + 0.5).clamp(0, 1)


def export(model: TextToImage, work: Path, out: Path) -> None:
    """Writes the model folder in bfloat16, after comparing both networks with the originals on
    random inputs in float32."""
    state = {name: value.detach().float().cpu() for name, value in model.text_encoder.state_dict().items()}
    last = TEXT["num_hidden_layers"] - 1
    state |= {k.replace(f"layers.{last - 1}.", f"layers.{last}."): v.clone() for k, v in state.items() if f"layers.{last - 1}." in k}
    state["norm.weight"] = torch.ones(TEXT["hidden_size"])
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    config = Qwen3Config(
        **TEXT,
        rope_parameters={"rope_type": "default", "rope_theta": TEXT_THETA},
        tie_word_embeddings=True,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )
    text_encoder = Qwen3Model(config).eval()
    text_encoder.load_state_dict(state)
    transformer = ZImageTransformer2DModel(**IMAGE).eval()
    transformer.load_state_dict({name: value.float().cpu() for name, value in model.transformer.state_dict().items()})
    vae = AutoencoderKL.from_pretrained(work / "vae")

    ours = TextToImage().eval()
    ours.load_state_dict({name: value.float().cpu() for name, value in model.state_dict().items()})
    tokens, length, t = torch.randint(TEXT["vocab_size"], (1, CAPTION_MULTIPLE)), 11, torch.tensor([0.3])
    latents = torch.randn(1, 16, 32, 32)
    with torch.no_grad():
        features = text_encoder(tokens[:, :length], output_hidden_states=True).hidden_states[-2]
        theirs = transformer([latents[0, :, None]], t, [features[0]]).sample[0][:, 0]
        velocity = ours(latents, t, tokens, torch.tensor([length]))[0]
    difference = ((velocity - theirs).norm() / theirs.norm()).item()
    if not difference < 1e-4:
        raise SystemExit(f"our networks differ from the originals: {difference:.2e}")

    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT, use_dynamic_shifting=False)
    parts = dict(text_encoder=text_encoder.bfloat16(), transformer=transformer.bfloat16(), vae=vae.bfloat16())
    pipeline = ZImagePipeline(scheduler=scheduler, tokenizer=tokenizer, **parts)
    pipeline.save_pretrained(out)
    # The local path of the autoencoder does not belong in the published folder.
    vae_config = json.loads((out / "vae" / "config.json").read_text())
    del vae_config["_name_or_path"]
    (out / "vae" / "config.json").write_text(json.dumps(vae_config, indent=2) + "\n")
    shutil.rmtree(out / "tokenizer")
    shutil.copytree(work / "tokenizer", out / "tokenizer")
    (out / "zimage.json").write_text(json.dumps(DEFAULTS) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("target/emoji"), help="the folder that data.py and vae.py wrote")
    parser.add_argument("--out", type=Path, default=Path("models/emoji"), help="where the model folder is written")
    parser.add_argument("--minutes", type=float, default=17.0, help="time for everything, loading and compiling included")
    parser.add_argument("--batch", type=int, default=384)
    parser.add_argument("--bank", type=int, default=131_072, help="latents kept on the device")
    parser.add_argument("--limit", type=int, help="use only the first LIMIT pictures, for a trial")
    args = parser.parse_args()
    start = saved = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")

    catalogue = read_catalogue(args.work / "pack.npz")[: args.limit]
    tokenizer_file = args.work / "tokenizer" / "tokenizer.json"
    scenes = SceneStream(catalogue, tokenizer_file, args.batch)
    stream = iter(DataLoader(scenes, batch_size=None, collate_fn=lambda chunk: chunk, num_workers=6, prefetch_factor=4))
    next(stream)  # so that the workers start before the device is touched
    album = Album(args.work / "pack.npz", device, args.limit)
    vae = AutoencoderKL.from_pretrained(args.work / "vae").to(device).eval()
    encoder = Encode(vae.to(memory_format=torch.channels_last))
    bank = Bank(args.bank, torch.compile(encoder, dynamic=False) if on_gpu else encoder, album, stream, device)
    model = TextToImage().to(device)
    for part in (model.text_encoder, model.transformer):
        print(f"{type(part).__name__}: {sum(p.numel() for p in part.parameters()):,} parameters", flush=True)
    short_loss = torch.compile(flow_loss, dynamic=False) if on_gpu else flow_loss  # long captions are too few to pay for compiling
    trained_by = optimizers(model, on_gpu)
    encoded = Tokenizer.from_file(str(tokenizer_file)).encode_batch([TEMPLATE.format(p) for p in PREVIEW])
    preview_tokens, preview_lengths = (torch.from_numpy(a).to(device) for a in padded([e.ids for e in encoded]))

    def write() -> None:
        pictures = sample(model, vae, preview_tokens[:, :CAPTION_MULTIPLE], preview_lengths)
        save_sheet(list(pictures.split(8)), args.work / "preview.png")
        export(model, args.work, args.out)

    while bank.filled < min(24 * args.batch, args.bank):
        bank.refresh()
    print(f"bank: {bank.filled} latents after {time.time() - start:.0f} s", flush=True)
    step, done, total = 0, 0.0, torch.zeros((), device=device)
    while done < 1:
        done = min((time.time() - start) / (60 * args.minutes), 1)
        rate = min(step / 300, 1) * min((1 - done) / 0.6, 1)
        for optimizer in trained_by:
            optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["peak"] * rate
        if step % REFRESH == 0:
            bank.refresh()
        latents, tokens, lengths = bank.batch(args.batch)
        strata = torch.arange(len(latents), device=device)
        sigma = shifted((strata + torch.rand(len(latents), device=device)) / len(latents))
        loss_of = short_loss if tokens.shape[1] == CAPTION_MULTIPLE else flow_loss
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            loss = loss_of(model, latents, tokens, lengths, torch.randn_like(latents), sigma)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in trained_by:
            optimizer.step()
        model.zero_grad()
        total += loss.detach()
        step += 1
        if step % 500 == 0:
            print(f"step {step}  {time.time() - start:.0f} s  loss {total.item() / 500:.4f}  rate {rate:.3f}", flush=True)
            total.zero_()
        if time.time() - saved > SAVE_EVERY:
            write()
            saved = time.time()
    write()
    print(f"{step} steps of {args.batch} in {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
