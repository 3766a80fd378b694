"""Trains the embedded default's transformer with its text encoder, in one or more calls.

Run: python tools/emoji/training.py --work target/emoji --seconds 300 --sizes small
     python tools/emoji/training.py --work target/emoji --seconds 480 --resume --decay 0.7
     torchrun --nproc-per-node 2 tools/emoji/training.py --work target/emoji --seconds 480 --resume
Needs: the output of data.py and vae.py in WORK, torch, tokenizers and one GPU (a CPU suffices for a
trial: --limit 20 --shrink 100). With torchrun the GPUs of a machine share the pictures of a step.

Flow matching: x_t = sigma·noise + (1 − sigma)·x0, and the transformer, given t = 1 − sigma,
predicts x0 − noise. The noise has the numbers that its scene was drawn with (placement.py). Latents
come from a bank on the device. Each step redraws and re-encodes a part of it.

The rate rises over the first steps, stays, and falls to zero over the last --decay of the call: a
call without decay leaves a model to continue from, a call with it a finished one. Matrices are
rounded to NVFP4 from --round-after of the call on. WORK/state.pt has parameters and the state of
the optimizers, and is written every 60 s; --resume continues from it. --model continues from a
stored folder, whose tokenizer and autoencoder it copies to WORK.

On a GPU a step is two CUDA graphs, and the gradients of all ranks are added between them. A second
stream redraws the bank meanwhile. A step whose
gradient is not finite changes no weight.
"""

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from autoencoder import load_vae, save_vae
from captions import SINGLES, Picture, Scene, Writer
from export import read_vae, read_weights
from graphs import Aside, Step
from networks import Layout, Precision, TextToImage
from optimizers import optimizers, set_rates
from pictures import Album, read_catalogue, save_sheet
from placement import with_numbers
from ranks import Ranks
from sampling import LATENT_SIDE, decode, encode_captions, sample, shifted
from training_sizes import SIZES, Group

REFRESH = 40  # a latent is used about this often before it is drawn anew
CAPACITY = 48  # latents in the bank for each scene in a step
FILLED = 4  # of these before training starts
#: More noise than in sampling. A model that lacks details at the first step has a higher PSNR with
#: `evaluate.py --steps 1` than with 8, and inputs of little but noise teach it to recall them.
TRAINING_SHIFT = 6.0
#: The share of steps' pictures below sigma 0.8 whose noise is independent of the scene: image to
#: image starts from such noise.
INDEPENDENT = 0.25
SAVE_EVERY = 60.0
PREVIEW = [
    "fox", "a fox", "two cats", "a dog and a cat", "a rocket at night", "pizza, blue background", "three red apples", "a crown above a frog",
]  # fmt: skip
PREVIEW_SIZES = [(256, 256), (384, 256), (512, 512)]


class SceneStream(IterableDataset):
    """Endless (group, scenes, tokens, lengths); each worker has its own seed."""

    def __init__(self, catalogue: list[Picture], tokenizer: Path, groups: list[Group], seed: int, singles: float):
        self.catalogue, self.tokenizer, self.groups, self.seed, self.singles = catalogue, str(tokenizer), groups, seed, singles

    def __iter__(self) -> Iterator[tuple[int, list[Scene], np.ndarray, np.ndarray]]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        worker = get_worker_info()
        writer = Writer(self.catalogue, self.seed + (worker.id if worker else 0), self.singles)
        tokenizer, nth = Tokenizer.from_file(self.tokenizer), worker.id if worker else 0
        waiting: dict[tuple[tuple[int, int], bool], list[tuple[Scene, list[int]]]] = {}
        while True:
            group = nth % len(self.groups)
            nth += 1
            size, count, limit = self.groups[group].size, self.groups[group].count, self.groups[group].caption
            is_long = limit > min(g.caption for g in self.groups)
            queue = waiting.setdefault((size, is_long), [])
            while len(queue) < count:
                scene = writer.scene(*size)
                ids = encode_captions(tokenizer, [scene.caption])[0]
                long = len(ids) > min(g.caption for g in self.groups)
                if len(ids) <= limit and len(waiting.setdefault((size, long), [])) < 4 * count:
                    waiting[size, long].append((scene, ids))
            chosen, waiting[size, is_long] = queue[:count], queue[count:]
            tokens = np.zeros((count, limit), np.int64)
            for row, (_, ids) in zip(tokens, chosen):
                row[: len(ids)] = ids
            yield group, [s for s, _ in chosen], tokens, np.array([len(ids) for _, ids in chosen])


class Bank:
    """Latents, captions and numbers of each group on the device; the oldest are replaced first."""

    def __init__(self, groups: list[Group], vae: torch.nn.Module, album: Album, stream: Iterator, capacity: int):
        device = album.device
        self.groups, self.vae, self.album, self.stream = groups, vae, album, stream
        self.latents, self.tokens, self.lengths, self.numbers = [], [], [], []
        self.filled, self.next = [0] * len(groups), [0] * len(groups)
        for g in groups:
            room = g.count * capacity
            self.latents.append(torch.empty(room, 16, g.height // 8, g.width // 8, dtype=torch.bfloat16, device=device))
            self.tokens.append(torch.zeros(room, g.caption, dtype=torch.long, device=device))
            self.lengths.append(torch.zeros(room, dtype=torch.long, device=device))
            self.numbers.append(torch.zeros(room, 16, device=device))

    @torch.no_grad()
    def refresh(self) -> None:
        """Draws the scenes of one group."""
        group, scenes, tokens, lengths = next(self.stream)
        room, device = len(self.lengths[group]), self.album.device
        rows = (self.next[group] + torch.arange(len(scenes), device=device)) % room
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            latents = self.vae.encode(self.album.draw(scenes))
        self.latents[group][rows] = latents.bfloat16()
        self.tokens[group][rows] = torch.from_numpy(tokens).to(device)
        self.lengths[group][rows] = torch.from_numpy(lengths).to(device)
        self.numbers[group][rows] = torch.from_numpy(np.stack([s.numbers for s in scenes])).float().to(device)
        self.next[group] = (self.next[group] + len(scenes)) % room
        self.filled[group] = min(self.filled[group] + len(scenes), room)

    def batch(self) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Latents and numbers of each group, and tokens and lengths of all captions."""
        latents, numbers, tokens, lengths = [], [], [], []
        for n, g in enumerate(self.groups):
            rows = torch.randint(self.filled[n], (g.count,), device=self.album.device)
            latents.append(self.latents[n][rows].float())
            numbers.append(self.numbers[n][rows])
            tokens.append(self.tokens[n][rows].flatten())
            lengths.append(self.lengths[n][rows])
        return latents, numbers, torch.cat(tokens), torch.cat(lengths)


def flow_loss(model: TextToImage, layout: Layout, batch: tuple[list[Tensor], list[Tensor], Tensor, Tensor]) -> Tensor:
    """The mean over all latent values of the squared error of the velocity."""
    latents, numbers, tokens, lengths = batch
    count, device = len(lengths), lengths.device
    strata = (torch.rand(count, device=device).argsort() + torch.rand(count, device=device)) / count
    sigma = shifted(strata, TRAINING_SHIFT)
    coupled = (torch.rand(count, device=device) >= INDEPENDENT) | (sigma > 0.8)
    noisy, targets = [], []
    sizes = [len(x) for x in latents]
    for x, wanted, level, couple in zip(latents, numbers, sigma.split(sizes), coupled.split(sizes)):
        noise = torch.randn_like(x)
        noise = torch.where(couple[:, None, None, None], with_numbers(noise, wanted), noise)
        level = level[:, None, None, None]
        noisy.append(level * noise + (1 - level) * x)
        targets.append(x - noise)
    predicted = model(noisy, 1 - sigma, tokens, lengths, layout)
    total = sum((p - t).square().sum() for p, t in zip(predicted, targets))
    return total / sum(t.numel() for t in targets)


class Trainer:
    """Steps of training on batches of constant shapes."""

    def __init__(self, model: TextToImage, layout: Layout, bank: Bank, trained_by: list[torch.optim.Optimizer], ranks: Ranks):
        self.model, self.layout, self.bank, self.trained_by, self.ranks = model, layout, bank, trained_by, ranks
        self.device = bank.album.device
        self.batch = bank.batch()
        #: The gradients of all parameters, and the loss.
        self.gradients = torch.zeros(sum(p.numel() for p in model.parameters()) + 1, device=self.device)
        at = 0
        for p in model.parameters():
            p.grad = self.gradients[at : at + p.numel()].view_as(p)
            at += p.numel()
        #: The sum of the finite losses and the number of the others since both were last zeroed.
        self.total, self.skipped = torch.zeros(2, device=self.device).unbind()
        self.differentiate, self.update = Step(self._differentiate, self.device), Step(self._update, self.device)
        self.aside = Aside(self.device)

    def _differentiate(self) -> None:
        self.gradients.zero_()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = flow_loss(self.model, self.layout, self.batch)
        loss.backward()
        self.gradients[-1] = loss.detach()

    def _update(self) -> None:
        mean = self.gradients / self.ranks.count
        norm, loss = mean[:-1].norm(), mean[-1]
        fine = norm.isfinite() & loss.isfinite()
        self.gradients.copy_(torch.where(fine, mean * (1 / norm).clamp(max=1.0), 0.0))
        for optimizer in self.trained_by:
            optimizer.step()
        self.total.add_(torch.where(fine, loss, 0.0))
        self.skipped.add_(1.0 - fine.float())

    def step(self, refreshes: int) -> None:
        """One step, while the bank is refreshed for the next ones."""
        self.aside.join()
        latents, numbers, tokens, lengths = self.bank.batch()
        for kept, new in zip([*self.batch[0], *self.batch[1], *self.batch[2:]], [*latents, *numbers, tokens, lengths]):
            kept.copy_(new)
        self.aside.fork()
        self.differentiate()
        self.ranks.add(self.gradients)
        self.update()
        with torch.cuda.stream(self.aside.stream):
            for _ in range(refreshes):
                self.bank.refresh()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("target/emoji"), help="the folder that data.py and vae.py wrote")
    parser.add_argument("--seconds", type=float, default=300.0, help="time for everything, loading and compiling included")
    parser.add_argument("--decay", type=float, default=0.0, help="the share of the call over which the rate falls to zero")
    parser.add_argument("--round-after", type=float, default=0.0, help="the share of the call before weights are rounded")
    parser.add_argument("--rate", type=float, default=1.0, help="a factor of the rates")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--resume", action="store_true", help="continue from WORK/state.pt")
    origin.add_argument("--model", type=Path, help="continue from this stored model folder, with fresh optimizers")
    parser.add_argument("--sizes", choices=SIZES, default="all", help="the sizes of the pictures: small ones teach more pictures in the same time")
    parser.add_argument("--singles", type=float, default=SINGLES, help="the share of scenes with one picture over a colour")
    parser.add_argument("--seed", type=int, default=0, help="other scenes and noise in every call of a training")
    parser.add_argument("--limit", type=int, help="use only the first LIMIT pictures, for a trial")
    parser.add_argument("--shrink", type=int, default=1, help="divide the scenes in a step by this, for a trial")
    args = parser.parse_args()
    start = saved = time.time()
    ranks = Ranks()
    device = ranks.device
    on_gpu = device.type == "cuda"
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.recompile_limit = 64
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans every shape anew

    share_of = args.shrink * ranks.count
    groups = [Group(g.width, g.height, max(g.count // share_of, 1), g.caption) for g in SIZES[args.sizes]]
    if args.model and ranks.rank == 0:
        shutil.copytree(args.model / "tokenizer", args.work / "tokenizer", dirs_exist_ok=True)
        save_vae(read_vae(args.model), args.work)
    ranks.wait()
    catalogue = read_catalogue(args.work, args.limit)
    tokenizer_file = args.work / "tokenizer" / "tokenizer.json"
    seed = ranks.count * args.seed + ranks.rank
    torch.manual_seed(seed)
    scenes = SceneStream(catalogue, tokenizer_file, groups, 1000 + 100 * seed, args.singles)
    workers = 10 if on_gpu else 0
    stream = iter(DataLoader(scenes, batch_size=None, collate_fn=lambda chunk: chunk, num_workers=workers, prefetch_factor=4 if workers else None))
    next(stream)  # so that the workers start before the device is touched
    album = Album(args.work, device, args.limit)
    vae = load_vae(args.work, device).freeze()
    bank = Bank(groups, vae, album, stream, CAPACITY if on_gpu else FILLED)
    model = TextToImage().to(device)
    for part in (model.text_encoder, model.transformer):
        ranks.print(f"{type(part).__name__}: {sum(p.numel() for p in part.parameters()):,} parameters")
    trained_by = optimizers(model, on_gpu)
    step, state = 0, args.work / "state.pt"
    if args.resume:
        stored = torch.load(state, map_location=device)
        model.load_state_dict(stored["model"])
        rates = [optimizer.param_groups[0]["lr"] for optimizer in trained_by]
        for optimizer, kept, rate in zip(trained_by, stored["optimizers"], rates):
            optimizer.load_state_dict(kept)
            optimizer.param_groups[0]["lr"] = rate
        step = stored["step"]
        ranks.print(f"resumed at step {step}")
    elif args.model:
        read_weights(args.model, model)
    ranks.share_first(list(model.state_dict().values()))
    first = step
    layout = Layout([(g.count, g.height // LATENT_SIDE, g.width // LATENT_SIDE, g.caption) for g in groups], device)
    if on_gpu:
        model.compile_blocks()
    tokenizer = Tokenizer.from_file(str(tokenizer_file))

    def save() -> None:
        if ranks.rank:
            return
        if not all(p.isfinite().all() for p in model.parameters()):
            raise SystemExit(f"the weights are not finite; {state} has the last ones that were")
        kept = dict(model=model.state_dict(), optimizers=[o.state_dict() for o in trained_by], step=step)
        torch.save(kept, state.with_suffix(".new"))
        os.replace(state.with_suffix(".new"), state)

    while min(bank.filled) == 0 or sum(bank.filled) < FILLED * sum(g.count for g in groups):
        bank.refresh()
    ranks.print(f"bank: {sum(bank.filled)} latents after {time.time() - start:.0f} s")
    # A preview and the last save take a few seconds at the end.
    seconds, done = args.seconds - (12 if on_gpu else 5), 0.0
    share = torch.zeros((), device=device)
    Precision.share = share
    refreshes = len(groups) / REFRESH
    trainer = Trainer(model, layout, bank, trained_by, ranks)
    printed = step
    while done < 1:
        done = ranks.of_first(min((time.time() - start) / seconds, 1))
        rate = args.rate * min((step - first + 1) / 200, 1) * (min((1 - done) / args.decay, 1) if args.decay else 1)
        set_rates(trained_by, rate)
        share.fill_(min(max((done - args.round_after) / 0.1, 0.0), 1.0) if args.round_after else 1.0)
        trainer.step(int((step + 1) * refreshes) - int(step * refreshes))
        step += 1
        if step % 200 == 0 or step - first in (1, 5, 20, 100):
            total, skipped, since = trainer.total.item(), int(trainer.skipped.item()), step - printed
            note = f"  {skipped} steps skipped" if skipped else ""
            ranks.print(f"step {step}  {time.time() - start:.0f} s  loss {total / max(since - skipped, 1):.4f}  rate {rate:.3f}{note}")
            if 2 * skipped > since:
                raise SystemExit(f"most losses are not finite; {state} has the last state")
            trainer.total.zero_()
            trainer.skipped.zero_()
            printed = step
        if time.time() - saved > SAVE_EVERY:
            save()
            saved = time.time()
    save()
    ranks.end()
    if ranks.rank:
        return
    drawn_with, rows = TextToImage().to(device), []  # not compiled: every size would be compiled anew
    drawn_with.load_state_dict(model.state_dict())
    for size in PREVIEW_SIZES:
        latents = sample(drawn_with, tokenizer, PREVIEW, size, list(range(len(PREVIEW))))
        rows.append(list(decode(vae, latents)))
    save_sheet(rows, args.work / "preview.png")
    pictures = ranks.count * sum(g.count for g in groups)
    ranks.print(f"{step - first} steps of {pictures} pictures in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
