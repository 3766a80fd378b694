"""Trains the embedded default's autoencoder on scenes drawn from the pack.

Run: python tools/emoji/vae.py --work target/emoji --minutes 6
Needs: WORK/pack.npz from data.py, requirements.txt and one GPU (a CPU suffices for a trial: --batch
2 --limit 20 --minutes 1).

Writes WORK/vae/ (a diffusers AutoencoderKL in float32, whose config has the scale and shift that
normalise its latents to mean 0 and standard deviation 1) and WORK/vae.png (pictures above their
reconstructions).
"""

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image

from captions import Writer
from pictures import SIDE, Album, read_catalogue

CONFIG = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[32, 64, 96, 96],
    layers_per_block=1,
    latent_channels=16,
    norm_num_groups=16,
    sample_size=SIDE,
    use_quant_conv=False,
    use_post_quant_conv=False,
    mid_block_add_attention=True,
)
KL_WEIGHT = 1e-5
LEARNING_RATE = 1.5e-3
WARM_UP = 3  # steps


class Reconstruction(torch.nn.Module):
    """The training loss of a batch of pictures in −1..1."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        mean, log_variance = self.vae.encoder(picture).float().chunk(2, 1)
        log_variance = log_variance.clamp(-20, 10)
        latents = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        error = self.vae.decoder(latents).float() - picture
        loss = error.abs().mean() + 5 * error.square().mean()
        for size in (1, 2, 4):
            level = F.avg_pool2d(error, size) if size > 1 else error
            loss = loss + 0.5 * (level.diff(dim=-1).abs().mean() + level.diff(dim=-2).abs().mean())
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return loss + KL_WEIGHT * kl


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of each picture, both in 0..1."""
    return -10 * (a - b).square().mean((1, 2, 3)).log10()


@torch.no_grad()
def check(vae: AutoencoderKL, album: Album, writer: Writer, count: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Runs fresh scenes through the autoencoder as the pipeline does: [pictures, reconstructions],
    and the latents."""
    pictures, outputs, latents = [], [], []
    for _ in range(0, count, 32):
        picture = album.draw([writer.scene() for _ in range(32)])
        mode = vae.encode(picture * 2 - 1).latent_dist.mode()
        pictures.append(picture)
        latents.append(mode)
        outputs.append((vae.decode(mode).sample * 0.5 + 0.5).clamp(0, 1))
    return [torch.cat(pictures), torch.cat(outputs)], torch.cat(latents)


def save_sheet(rows: list[torch.Tensor], path: Path) -> None:
    """Rows of pictures [n, 3, h, w] in 0..1 as one image file."""
    sheet = torch.cat([torch.cat(list(row), -1) for row in rows], -2)
    Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).cpu().numpy()).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("target/emoji"), help="the folder that data.py wrote")
    parser.add_argument("--minutes", type=float, default=6.0, help="training time; the learning rate follows it down to zero")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--limit", type=int, help="use only the first LIMIT pictures, for a trial")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True

    album = Album(args.work / "pack.npz", device, args.limit)
    catalogue = read_catalogue(args.work / "pack.npz")[: args.limit]
    writer = Writer(catalogue, seed=1)
    vae = AutoencoderKL(**CONFIG).to(device)
    print(f"vae: {sum(p.numel() for p in vae.parameters()):,} parameters", flush=True)
    vae = vae.to(memory_format=torch.channels_last)
    model = Reconstruction(vae)
    step_loss = torch.compile(model, dynamic=False) if on_gpu else model
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=on_gpu)

    start, step, done = time.time(), 0, 0.0
    while done < 1:
        if step == WARM_UP:
            start = time.time()  # compiling does not count
        done = min((time.time() - start) / (60 * args.minutes), 1) if step >= WARM_UP else 0
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(step / 100, 1) * (0.5 + 0.5 * math.cos(math.pi * done))
        picture = album.draw([writer.scene() for _ in range(args.batch)]) * 2 - 1
        picture = picture.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            loss = step_loss(picture)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 1:
            print(f"step {step}  {time.time() - start:.0f} s  loss {loss.item():.4f}", flush=True)

    (pictures, outputs), latents = check(vae, album, Writer(catalogue, seed=2), 512 if on_gpu else 32)
    mean, deviation = latents.mean().item(), latents.std().item()
    vae.register_to_config(scaling_factor=round(1 / deviation, 5), shift_factor=round(mean, 5))
    vae.to(memory_format=torch.contiguous_format).save_pretrained(args.work / "vae")
    save_sheet([row for n in (0, 10, 20) for row in (pictures[n : n + 10], outputs[n : n + 10])], args.work / "vae.png")
    spread = latents.std((0, 2, 3))
    print(f"latents: mean {mean:.4f}, standard deviation {deviation:.4f}, by channel {spread.min():.3f} to {spread.max():.3f}")
    print(f"{step} steps, median PSNR {psnr(pictures, outputs).median():.2f} dB over {len(pictures)} scenes")


if __name__ == "__main__":
    main()
