"""The transformer and the text encoder for training. They compute the same as diffusers'
ZImageTransformer2DModel and transformers' Qwen3Model, and use the same parameter names.

One pass takes pictures of several sizes: tokens of all groups follow one another [tokens, width],
so that linear layers and norms run once, and only attention runs group by group. The matrices of
blocks and the embeddings are rounded to NVFP4 in the forward pass, to the share `Precision.share`.
"""

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from formats import nvfp4, straight_through

TEXT = dict(
    vocab_size=3072,
    hidden_size=256,
    intermediate_size=384,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=64,
    rms_norm_eps=1e-6,
    max_position_embeddings=1024,
)
TEXT_THETA = 10_000.0
IMAGE = dict(
    all_patch_size=[2],
    all_f_patch_size=[1],
    in_channels=16,
    dim=256,
    n_layers=8,
    n_refiner_layers=1,
    n_heads=4,
    n_kv_heads=4,
    norm_eps=1e-5,
    qk_norm=True,
    cap_feat_dim=TEXT["hidden_size"],
    rope_theta=256.0,
    t_scale=1000.0,
    axes_dims=[16, 24, 24],
    axes_lens=[1536, 512, 512],
)
PATCH = 2


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Precision:
    """Blend of the forward pass between exact weights (0) and the stored format (1)."""

    share: Tensor | float = 1.0


def rounded(weight: Tensor) -> Tensor:
    return straight_through(weight, nvfp4(weight), Precision.share)


def is_nvfp4(name: str, parameter: Tensor) -> bool:
    """True for the matrices that are stored in NVFP4: all but those next to the latents and to the
    text features."""
    return parameter.ndim == 2 and not any(part in name for part in ("all_x_embedder", "all_final_layer", "cap_embedder", "pad_token"))


class Rounded(nn.Linear):
    """A linear layer whose matrix is stored in NVFP4."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, rounded(self.weight), self.bias)


def linear(inputs: int, outputs: int, bias: bool = False, kind: type[nn.Linear] = Rounded) -> nn.Linear:
    layer = kind(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def fused(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """Several projections of one input as one gemm."""
    return F.linear(x, rounded(torch.cat([layer.weight for layer in layers]))).split([layer.out_features for layer in layers], -1)


@dataclass(frozen=True)
class Sequences:
    """Sequences that follow one another: each group's number of sequences and their length, and the
    first tokens of all of them, with the end."""

    spans: tuple[tuple[int, int], ...]
    starts: Tensor

    @staticmethod
    def of(spans: list[tuple[int, int]], device: torch.device) -> "Sequences":
        lengths = [length for count, length in spans for _ in range(count)]
        return Sequences(tuple(spans), torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device))

    def split(self, tokens: Tensor) -> list[Tensor]:
        """Tokens [tokens, …] → those of each group [sequences, length, …]."""
        parts = tokens.split([count * length for count, length in self.spans])
        return [part.unflatten(0, span) for part, span in zip(parts, self.spans)]

    def spread(self, values: Tensor) -> Tensor:
        """Values of each sequence [sequences, …] → of each of its tokens [tokens, …]."""
        groups = zip(values.split([count for count, _ in self.spans]), self.spans)
        return torch.cat([part[:, None].expand(-1, length, *part.shape[1:]).flatten(0, 1) for part, (_, length) in groups])


def attend(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, causal: bool = False) -> Tensor:
    """Attention of each sequence; `q`, `k` and `v` are [tokens, heads, head]."""
    if q.is_cuda and q.dtype == torch.bfloat16:
        longest = max(length for _, length in sequences.spans)
        window = (-1, 0 if causal else -1)
        return varlen_attn(q, k, v, sequences.starts, sequences.starts, longest, longest, window_size=window).flatten(1)
    parts = []
    for group in zip(*(sequences.split(t) for t in (q, k, v))):
        y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in group), is_causal=causal)
        parts.append(y.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).flatten(1)


class TextAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width, self.head = TEXT["hidden_size"], TEXT["head_dim"]
        heads, kv_heads = TEXT["num_attention_heads"], TEXT["num_key_value_heads"]
        self.groups = heads // kv_heads
        self.q_proj = linear(width, heads * self.head)
        self.k_proj = linear(width, kv_heads * self.head)
        self.v_proj = linear(width, kv_heads * self.head)
        self.o_proj = linear(heads * self.head, width)
        self.q_norm = RMSNorm(self.head, TEXT["rms_norm_eps"])
        self.k_norm = RMSNorm(self.head, TEXT["rms_norm_eps"])

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [tokens, heads, head]."""
        q, k, v = (p.unflatten(-1, (-1, self.head)) for p in fused(x, self.q_proj, self.k_proj, self.v_proj))

        def rotated(x: Tensor) -> Tensor:
            low, high = x.chunk(2, -1)
            return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

        q, k = rotated(self.q_norm(q)).type_as(v), rotated(self.k_norm(k)).type_as(v)
        k, v = (t.repeat_interleave(self.groups, 1) for t in (k, v))
        return q, k, v


class TextMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width, hidden = TEXT["hidden_size"], TEXT["intermediate_size"]
        self.gate_proj, self.up_proj, self.down_proj = linear(width, hidden), linear(width, hidden), linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = fused(x, self.gate_proj, self.up_proj)
        return self.down_proj(F.silu(gate) * up)


class TextLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = TextAttention(), TextMLP()
        self.input_layernorm = RMSNorm(TEXT["hidden_size"], TEXT["rms_norm_eps"])
        self.post_attention_layernorm = RMSNorm(TEXT["hidden_size"], TEXT["rms_norm_eps"])

    def before(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.self_attn.project(self.input_layernorm(x), cos, sin)

    def after(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.self_attn.o_proj(attended)
        return x + self.mlp(self.post_attention_layernorm(x))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, sequences: Sequences) -> Tensor:
        return self.after(x, attend(*self.before(x, cos, sin), sequences, causal=True))


class TextEncoder(nn.Module):
    """Tokens [tokens] with their positions → the hidden states before the last layer [tokens,
    width]. The last layer is unused and omitted."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(TEXT["vocab_size"], TEXT["hidden_size"])
        nn.init.normal_(self.embed_tokens.weight, std=0.3)
        self.layers = nn.ModuleList(TextLayer() for _ in range(TEXT["num_hidden_layers"] - 1))

    def forward(self, tokens: Tensor, positions: Tensor, sequences: Sequences) -> Tensor:
        half = TEXT["head_dim"] // 2
        frequencies = TEXT_THETA ** (-torch.arange(half, device=tokens.device) / half)
        angles = positions[:, None, None] * frequencies
        cos, sin = angles.cos(), angles.sin()
        x = F.embedding(tokens, rounded(self.embed_tokens.weight))
        for layer in self.layers:
            x = layer(x, cos, sin, sequences)
        return x


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dim, self.heads = IMAGE["dim"], IMAGE["n_heads"]
        self.to_q, self.to_k, self.to_v = linear(dim, dim), linear(dim, dim), linear(dim, dim)
        self.to_out = nn.ModuleList([linear(dim, dim)])
        self.norm_q, self.norm_k = RMSNorm(dim // self.heads, 1e-5), RMSNorm(dim // self.heads, 1e-5)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [tokens, heads, head]."""
        q, k, v = (p.unflatten(-1, (self.heads, -1)) for p in fused(x, self.to_q, self.to_k, self.to_v))

        def rotated(x: Tensor) -> Tensor:
            even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

        return rotated(self.norm_q(q)).type_as(v), rotated(self.norm_k(k)).type_as(v), v


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dim, hidden = IMAGE["dim"], int(IMAGE["dim"] / 3 * 8)
        self.w1, self.w2, self.w3 = linear(dim, hidden), linear(hidden, dim), linear(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        # Zeros up to a multiple of 16: rows of 682 values are not aligned, and slow to multiply.
        pad = -self.w1.out_features % 16
        gate, up = (F.pad(rounded(layer.weight), (0, 0, 0, pad)) for layer in (self.w1, self.w3))
        gate, up = F.linear(x, torch.cat([gate, up])).chunk(2, -1)
        return F.linear(F.silu(gate) * up, F.pad(rounded(self.w2.weight), (0, pad)))


class Block(nn.Module):
    def __init__(self, modulated: bool) -> None:
        super().__init__()
        dim, eps = IMAGE["dim"], IMAGE["norm_eps"]
        self.attention, self.feed_forward = Attention(), FeedForward()
        self.attention_norm1, self.attention_norm2 = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.ffn_norm1, self.ffn_norm2 = RMSNorm(dim, eps), RMSNorm(dim, eps)
        if modulated:
            self.adaLN_modulation = nn.ModuleList([linear(min(dim, 256), 4 * dim, bias=True)])
            nn.init.zeros_(self.adaLN_modulation[0].weight)
            with torch.no_grad():
                self.adaLN_modulation[0].bias.view(4, dim)[1::2] = 0.2

    def before(self, x: Tensor, cos: Tensor, sin: Tensor, change: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        x = self.attention_norm1(x)
        if change is not None:
            x = x * (1 + change.chunk(4, -1)[0].float())
        return self.attention.project(x, cos, sin)

    def after(self, x: Tensor, attended: Tensor, change: Tensor | None) -> Tensor:
        y = self.attention_norm2(self.attention.to_out[0](attended))
        if change is None:
            x = x + y
            return x + self.ffn_norm2(self.feed_forward(self.ffn_norm1(x)))
        _, gate_a, scale_m, gate_m = change.float().chunk(4, -1)
        x = x + gate_a.tanh() * y
        return x + gate_m.tanh() * self.ffn_norm2(self.feed_forward(self.ffn_norm1(x) * (1 + scale_m)))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, sequences: Sequences, time: Tensor | None = None) -> Tensor:
        change = None if time is None else sequences.spread(self.adaLN_modulation[0](time))
        return self.after(x, attend(*self.before(x, cos, sin, change), sequences), change)


class TimestepEmbedder(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(linear(256, 1024, bias=True), nn.SiLU(), linear(1024, size, bias=True))

    def forward(self, t: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10_000) * torch.arange(128, device=t.device) / 128)
        angles = t[:, None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], -1))


class FinalLayer(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = linear(IMAGE["dim"], size, bias=True, kind=nn.Linear)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), linear(min(IMAGE["dim"], 256), IMAGE["dim"], bias=True, kind=nn.Linear))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.adaLN_modulation[1].weight)

    def forward(self, x: Tensor, time: Tensor, sequences: Sequences) -> Tensor:
        scale = 1 + sequences.spread(self.adaLN_modulation(time)).float()
        return self.linear(F.layer_norm(x, x.shape[-1:], eps=1e-6) * scale)


def rotation(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [tokens, 3] → cosine and sine [tokens, 1, head/2] of every pair's angle."""
    angles = []
    for axis, size in enumerate(IMAGE["axes_dims"]):
        steps = torch.arange(0, size, 2, device=positions.device, dtype=torch.float64)
        angles.append(positions[:, axis, None] * IMAGE["rope_theta"] ** (-steps / size))
    table = torch.cat(angles, -1)[:, None].float()
    return table.cos(), table.sin()


class Layout:
    """The places of all tokens of a batch. Each group has a number of pictures, height and width in
    latent pixels, and the tokens of its captions, a multiple of 32."""

    def __init__(self, groups: list[tuple[int, int, int, int]], device: torch.device):
        self.groups = groups
        image_at, caption_at, joint_at, token_at = [], [], [], []
        image_spans, caption_spans, joint_spans = [], [], []
        for count, height, width, caption in groups:
            rows, columns = height // PATCH, width // PATCH
            pad = -rows * columns % 32
            grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
            image = F.pad(torch.cat([torch.full_like(grid[:, :1], caption + 1), grid], -1), (0, 0, 0, pad))
            text = F.pad(torch.arange(1, caption + 1)[:, None], (0, 2))
            image_at.append(image.repeat(count, 1))
            caption_at.append(text.repeat(count, 1))
            joint_at.append(torch.cat([image, text]).repeat(count, 1))
            token_at.append(torch.arange(caption).repeat(count))
            image_spans.append((count, len(image)))
            caption_spans.append((count, caption))
            joint_spans.append((count, len(image) + caption))
        self.image, self.caption, self.joint = (rotation(torch.cat(at).to(device)) for at in (image_at, caption_at, joint_at))
        self.token_at = torch.cat(token_at).to(device)
        self.images, self.captions, self.joints = (Sequences.of(spans, device) for spans in (image_spans, caption_spans, joint_spans))

    def patches(self, latents: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Latents of each group [B, 16, h, w] → patches of all tokens [tokens, 64], zeros at the
        padding, and the tokens that are padding."""
        parts, pads = [], []
        for x, (count, height, width, _), (_, length) in zip(latents, self.groups, self.images.spans):
            x = x.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
            pads.append((torch.arange(length, device=x.device) >= x.shape[1]).repeat(count))
            parts.append(F.pad(x, (0, 0, 0, length - x.shape[1])).flatten(0, 1))
        return torch.cat(parts), torch.cat(pads)[:, None]

    def pictures(self, patches: Tensor) -> list[Tensor]:
        """The reverse of `patches`."""
        parts = []
        for x, (_, height, width, _) in zip(self.images.split(patches), self.groups):
            rows, columns = height // PATCH, width // PATCH
            x = x[:, : rows * columns].unflatten(2, (PATCH, PATCH, -1)).unflatten(1, (rows, columns))
            parts.append(x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3))
        return parts

    def join(self, image: Tensor, caption: Tensor) -> Tensor:
        """Tokens of pictures and of captions → of both, each picture before its caption."""
        parts = zip(self.images.split(image), self.captions.split(caption))
        return torch.cat([torch.cat(pair, 1).flatten(0, 1) for pair in parts])

    def image_of(self, joint: Tensor) -> Tensor:
        parts = zip(self.joints.split(joint), self.images.spans)
        return torch.cat([x[:, :length].flatten(0, 1) for x, (_, length) in parts])


class Transformer(nn.Module):
    """Latents of each group [B, 16, h, w], model time of all pictures [pictures] (0: noise, 1:
    picture) and text features [tokens, width] → minus the velocity, as the latents."""

    def __init__(self) -> None:
        super().__init__()
        dim, values = IMAGE["dim"], PATCH * PATCH * IMAGE["in_channels"]
        self.all_x_embedder = nn.ModuleDict({"2-1": linear(values, dim, bias=True, kind=nn.Linear)})
        self.all_final_layer = nn.ModuleDict({"2-1": FinalLayer(values)})
        self.noise_refiner = nn.ModuleList(Block(True) for _ in range(IMAGE["n_refiner_layers"]))
        self.context_refiner = nn.ModuleList(Block(False) for _ in range(IMAGE["n_refiner_layers"]))
        self.t_embedder = TimestepEmbedder(min(dim, 256))
        self.cap_embedder = nn.ModuleList(
            [RMSNorm(IMAGE["cap_feat_dim"], IMAGE["norm_eps"]), linear(IMAGE["cap_feat_dim"], dim, bias=True, kind=nn.Linear)]
        )
        self.x_pad_token = nn.Parameter(torch.randn(1, dim) * 0.3)
        self.cap_pad_token = nn.Parameter(torch.randn(1, dim) * 0.3)
        self.layers = nn.ModuleList(Block(True) for _ in range(IMAGE["n_layers"]))

    def forward(self, latents: list[Tensor], t: Tensor, features: Tensor, lengths: Tensor, layout: Layout) -> list[Tensor]:
        time = self.t_embedder(IMAGE["t_scale"] * t)
        patches, pads = layout.patches(latents)
        x = torch.where(pads, self.x_pad_token, self.all_x_embedder["2-1"](patches).float())
        for block in self.noise_refiner:
            x = block(x, *layout.image, layout.images, time)
        c = self.cap_embedder[1](self.cap_embedder[0](features)).float()
        c = torch.where((layout.token_at < layout.captions.spread(lengths))[:, None], c, self.cap_pad_token)
        for block in self.context_refiner:
            c = block(c, *layout.caption, layout.captions)
        x = layout.join(x, c)
        for block in self.layers:
            x = block(x, *layout.joint, layout.joints, time)
        out = self.all_final_layer["2-1"](layout.image_of(x), time, layout.images)
        return layout.pictures(out.float())


class TextToImage(nn.Module):
    """Both networks, which are trained together. Tokens of all captions follow one another
    [tokens]."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder, self.transformer = TextEncoder(), Transformer()

    def forward(self, latents: list[Tensor], t: Tensor, tokens: Tensor, lengths: Tensor, layout: Layout) -> list[Tensor]:
        features = self.text_encoder(tokens, layout.token_at, layout.captions)
        return self.transformer(latents, t, features, lengths, layout)

    def compile_blocks(self) -> None:
        """Compiles the blocks without their attention; those of one kind share the result."""
        for block in (*self.text_encoder.layers, *self.transformer.noise_refiner, *self.transformer.context_refiner, *self.transformer.layers):
            block.before, block.after = (torch.compile(part, dynamic=False) for part in (block.before, block.after))
