"""The autoencoder for training: diffusers' AutoencoderKL with the same parameter names, whose
kernels are rounded to INT8 in the forward pass. Used by vae.py, training.py and evaluate.py."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formats import int8, straight_through

CONFIG: dict[str, Any] = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[32, 48, 64, 64],
    layers_per_block=1,
    latent_channels=16,
    norm_num_groups=16,
    sample_size=256,
    use_quant_conv=False,
    use_post_quant_conv=False,
    mid_block_add_attention=True,
)
WIDTHS: list[int] = CONFIG["block_out_channels"]
LATENT: int = CONFIG["latent_channels"]


class Rounded(nn.Module):
    """A layer whose weight is stored in INT8. It is rounded at each call, or once by `freeze`."""

    is_frozen = False

    def rounded(self) -> Tensor:
        return self.weight if self.is_frozen else straight_through(self.weight, int8(self.weight))

    def freeze(self) -> None:
        self.weight.data = int8(self.weight.data)
        self.is_frozen = True


class Conv(Rounded, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.rounded(), self.bias)


class Linear(Rounded, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.rounded(), self.bias)


class Norm(nn.GroupNorm):
    """A norm in the type of its input; autocast would choose float32, which takes longer."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def norm(channels: int) -> Norm:
    return Norm(CONFIG["norm_num_groups"], channels, eps=1e-6)


class Resnet(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), Conv(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = norm(outputs), Conv(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = Conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.group_norm = norm(width)
        self.to_q, self.to_k, self.to_v = Linear(width, width), Linear(width, width), Linear(width, width)
        self.to_out = nn.ModuleList([Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (layer(tokens)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        y = self.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class Middle(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(width, width), Resnet(width, width)])
        self.attentions = nn.ModuleList([Attention(width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Resample(nn.Module):
    """Halves the size, with padding below and at the right only, or doubles it."""

    def __init__(self, width: int, up: bool):
        super().__init__()
        self.up = up
        self.conv = Conv(width, width, 3, padding=1) if up else Conv(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    def __init__(self, inputs: int, outputs: int, count: int, up: bool, last: bool):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(inputs if n == 0 else outputs, outputs) for n in range(count))
        self.resamplers = "" if last else "upsamplers" if up else "downsamplers"
        if not last:
            setattr(self, self.resamplers, nn.ModuleList([Resample(outputs, up)]))

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return getattr(self, self.resamplers)[0](x) if self.resamplers else x


class Coder(nn.Module):
    """The encoder (pictures in −1..1 → mean and log variance) or the decoder."""

    def __init__(self, up: bool):
        super().__init__()
        widths = WIDTHS[::-1] if up else WIDTHS
        count = CONFIG["layers_per_block"] + int(up)
        self.up = up
        self.conv_in = Conv(LATENT if up else 3, widths[0], 3, padding=1)
        levels = nn.ModuleList(
            Level(widths[max(n - 1, 0)], width, count, up, n == len(widths) - 1) for n, width in enumerate(widths)
        )
        setattr(self, self.levels, levels)
        self.mid_block = Middle(WIDTHS[-1])
        self.conv_norm_out = norm(widths[-1])
        self.conv_out = Conv(widths[-1], 3 if up else 2 * LATENT, 3, padding=1)

    @property
    def levels(self) -> str:
        return "up_blocks" if self.up else "down_blocks"

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        if self.up:
            x = self.mid_block(x)
        for level in getattr(self, self.levels):
            x = level(x)
        if not self.up:
            x = self.mid_block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Autoencoder(nn.Module):
    """Pictures [B, 3, H, W] in 0..1 and latents [B, 16, H/8, W/8], which are shifted and scaled to
    mean 0 and standard deviation 1."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Coder(up=False), Coder(up=True)
        self.shift, self.scale = 0.0, 1.0

    def moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log variances, not scaled."""
        mean, log_variance = self.encoder(pictures * 2 - 1).float().chunk(2, 1)
        return mean, log_variance.clamp(-20, 10)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        return (self.moments(pictures)[0] - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return (self.decoder(latents / self.scale + self.shift).float() * 0.5 + 0.5).clamp(0, 1)

    def freeze(self) -> "Autoencoder":
        """Rounds all kernels now: the autoencoder is not trained any more."""
        for module in self.modules():
            if isinstance(module, Rounded):
                module.freeze()
        return self.requires_grad_(False)

    def config(self) -> dict[str, Any]:
        """The config of diffusers' AutoencoderKL."""
        return CONFIG | dict(_class_name="AutoencoderKL", act_fn="silu", scaling_factor=self.scale, shift_factor=self.shift)


def save_vae(vae: Autoencoder, work: Path) -> None:
    torch.save(dict(state=vae.state_dict(), shift=vae.shift, scale=vae.scale), work / "vae.pt")


def load_vae(work: Path, device: torch.device) -> Autoencoder:
    stored, vae = torch.load(work / "vae.pt", map_location=device), Autoencoder().to(device)
    vae.load_state_dict(stored["state"])
    vae.shift, vae.scale = stored["shift"], stored["scale"]
    return vae.eval()
