"""Trains the embedded default's autoencoder on scenes of all sizes.

Run: python tools/emoji/vae.py --work target/emoji --seconds 230
     python tools/emoji/vae.py --work target/emoji --seconds 80 --resume
     python tools/emoji/vae.py --work target/emoji --seconds 200 --decoder target/emoji/model
Needs: the output of data.py in WORK, torch and one GPU (a CPU suffices for a trial: --limit 20
--shrink 8).

Writes WORK/vae.pt (parameters, and the shift and scale that normalise latents to mean 0 and
standard deviation 1) and WORK/vae.png (pictures above their reconstructions). The rate falls to
zero over the last --decay of the call, and --resume continues from WORK/vae.pt, which is also
written every 60 s. Both are for a first call without decay. With --decoder it continues from the
autoencoder of a stored model folder and changes only the decoder, so that a trained transformer
stays valid. Half of the latents are then the transformer's own, so that the decoder also learns to
sharpen them.
"""

import argparse
import math
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from autoencoder import LATENT, Autoencoder, load_vae, save_vae
from captions import Scene, Writer
from export import read_vae
from graphs import Aside, Step
from pictures import Album, psnr, read_catalogue, save_sheet
from samples import Samples

KL_WEIGHT = 1e-5
LEARNING_RATE = 1.5e-3
#: Noise on latents, as a share of their deviation: the decoder learns to bear the transformer's
#: errors.
JITTER = 0.03
SAVE_EVERY = 60.0
SAMPLES = 256  # sampled latents for each time that a size comes among 10 steps
#: Sizes with scenes in a step, and how often each comes among 10 steps.
SIZES = [((256, 256), 12, 6), ((128, 128), 32, 1), ((384, 256), 8, 1), ((256, 384), 8, 1), ((512, 512), 3, 1)]


def differences(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.diff(dim=-1), x.diff(dim=-2)


def contrast(x: Tensor) -> Tensor:
    """The root mean square of the gradients in each box of 8 × 8 pixels."""
    across, down = (F.avg_pool2d(d.square().mean(1, keepdim=True), 8, ceil_mode=True) for d in differences(x))
    return (across + down + 1e-6).sqrt()


class Reconstruction(torch.nn.Module):
    """The training loss of a batch of pictures in 0..1. The last ones have the sampled latents; the
    others are encoded."""

    def __init__(self, vae: Autoencoder):
        super().__init__()
        self.vae = vae

    def forward(self, picture: Tensor, sampled: Tensor) -> Tensor:
        mean, log_variance = self.vae.moments(picture[: len(picture) - len(sampled)])
        deviation = ((0.5 * log_variance).exp().square() + (JITTER * mean.detach().std()) ** 2).sqrt()
        output = self.vae.decoder(torch.cat([mean + torch.randn_like(mean) * deviation, sampled])).float()
        wanted = picture * 2 - 1
        error = output - wanted
        loss = error.abs().mean() + 5 * error.square().mean()
        # Errors of edges count at three resolutions.
        for size in (1, 2, 4):
            level = F.avg_pool2d(error, size) if size > 1 else error
            across, down = differences(level)
            loss = loss + across.abs().mean() + down.abs().mean()
        # An edge that is a pixel off costs less than a soft one.
        loss = loss + (contrast(output) - contrast(wanted)).abs().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return loss + KL_WEIGHT * kl


def edge_energy(pictures: Tensor) -> Tensor:
    """The sum of the squared gradients of each picture."""
    return sum(d.square().sum((1, 2, 3)) for d in differences(pictures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("target/emoji"), help="the folder that data.py wrote")
    parser.add_argument("--seconds", type=float, default=230.0, help="time for everything, loading included")
    parser.add_argument("--decay", type=float, default=1.0, help="the share of the call over which the rate falls to zero")
    parser.add_argument("--resume", action="store_true", help="continue from WORK/vae.pt")
    parser.add_argument("--decoder", type=Path, help="continue from this stored model folder, and change only the decoder")
    parser.add_argument("--limit", type=int, help="use only the first LIMIT pictures, for a trial")
    parser.add_argument("--shrink", type=int, default=1, help="divide the scenes in a step by this, for a trial")
    args = parser.parse_args()
    start = saved = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans every shape anew

    album, catalogue = Album(args.work, device, args.limit), read_catalogue(args.work, args.limit)
    vae = (read_vae(args.decoder) if args.decoder else load_vae(args.work, device) if args.resume else Autoencoder()).train().to(device)
    if args.decoder:
        vae.encoder.requires_grad_(False)
    trained = [p for p in vae.parameters() if p.requires_grad]
    print(f"vae: {sum(p.numel() for p in vae.parameters()):,} parameters", flush=True)
    reconstruction = Reconstruction(vae)
    rate, total = torch.zeros((), device=device), torch.zeros((), device=device)
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=on_gpu, capturable=on_gpu)
    turns = [nth for nth, (*_, often) in enumerate(SIZES) for _ in range(often)]
    writer = Writer(catalogue, seed=3 if args.resume else 1)

    def scenes(writer: Writer, nth: int, count: int) -> list[Scene]:
        return [writer.scene(*SIZES[nth][0]) for _ in range(count)]

    samples = None
    if args.decoder:
        counts = {size: max(SAMPLES * often // args.shrink, 1) for size, _, often in SIZES}
        samples = Samples(args.decoder, vae, album, writer, counts)
        print(f"{sum(counts.values())} sampled latents after {time.time() - start:.0f} s", flush=True)

    def drawn(nth: int) -> tuple[Tensor, Tensor]:
        """Pictures, and the sampled latents of the last of them."""
        size, count = SIZES[nth][0], max(SIZES[nth][1] // args.shrink, 1 + bool(samples))
        if not samples:
            return album.draw(scenes(writer, nth, count)), torch.empty(0, LATENT, size[1] // 8, size[0] // 8, device=device)
        pictures, latents = samples.draw(size, count // 2)
        return torch.cat([album.draw(scenes(writer, nth, count - count // 2)), pictures]), latents

    def step_of(inputs: tuple[Tensor, Tensor]) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            loss = reconstruction(*inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total.add_(loss.detach())

    # Of each size: the inputs of a step, and the step. The pictures of the next one are drawn meanwhile.
    inputs = [drawn(nth) for nth in range(len(SIZES))]
    steps, aside = [Step(partial(step_of, some), device) for some in inputs], Aside(device)

    # Checking and writing take a few seconds at the end.
    step, printed, done = 0, 0, 0.0
    seconds, upcoming = args.seconds - (8 if on_gpu else 2), drawn(turns[0])
    while done < 1:
        done = min((time.time() - start) / seconds, 1)
        falling = 0.5 - 0.5 * math.cos(math.pi * min((1 - done) / args.decay, 1)) if args.decay else 1.0
        nth, following = turns[step * 7 % 10], turns[(step + 1) * 7 % 10]
        aside.join()
        rate.fill_(LEARNING_RATE * min((step + 1) / 100, 1) * falling)
        for kept, new in zip(inputs[nth], upcoming):
            kept.copy_(new)
        aside.fork()
        steps[nth]()
        with torch.cuda.stream(aside.stream):  # does nothing without a GPU
            upcoming = drawn(following)
        step += 1
        if step in (10, 100) or step % 500 == 0:
            print(f"step {step}  {time.time() - start:.0f} s  loss {total.item() / (step - printed):.4f}", flush=True)
            printed = step
            total.zero_()
        if time.time() - saved > SAVE_EVERY and not args.decoder and total.isfinite():
            save_vae(vae, args.work)
            saved = time.time()

    vae.eval()
    check, rows, means = Writer(catalogue, seed=2), [], []
    for nth, (size, *_) in enumerate(SIZES):
        count = max((64 if size[0] < 512 else 16) // args.shrink, 1)
        picture = album.draw(scenes(check, nth, count))
        means.append(vae.encode(picture))
        output = vae.decode(means[-1])
        sharpness = (edge_energy(output) / edge_energy(picture)).median().item()
        print(f"{size[0]}×{size[1]}: median PSNR {psnr(picture, output).median():.2f} dB, edge energy {sharpness:.3f}", flush=True)
        rows += [list(picture[:8]), list(output[:8])]
    if not args.decoder:
        values = torch.cat([m.flatten() for m in means])
        vae.shift, vae.scale = round(values.mean().item(), 5), round(1 / values.std().item(), 5)
    save_vae(vae, args.work)
    save_sheet(rows, args.work / "vae.png")
    spread = means[0].std((0, 2, 3))
    print(f"{step} steps; latents: shift {vae.shift}, scale {vae.scale}, deviation by channel {spread.min():.3f} to {spread.max():.3f}")


if __name__ == "__main__":
    main()
