"""The transformer and the text encoder for training. They compute the same as diffusers'
ZImageTransformer2DModel and transformers' Qwen3Model on whole batches, and use the same parameter
names, so that a state dict fits both. `transformer.py` compiles them; its export compares them with
the originals.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEXT = dict(
    vocab_size=4096,
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
CAPTION_MULTIPLE = 32


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def fused(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """Several projections of one input as one gemm."""
    return F.linear(x, torch.cat([layer.weight for layer in layers])).split([layer.out_features for layer in layers], -1)


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

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (p.unflatten(-1, (-1, self.head)) for p in fused(x, self.q_proj, self.k_proj, self.v_proj))

        def rotated(x: Tensor) -> Tensor:
            low, high = x.chunk(2, -1)
            return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

        q, k = rotated(self.q_norm(q)).type_as(v), rotated(self.k_norm(k)).type_as(v)
        k, v = (t.repeat_interleave(self.groups, 2) for t in (k, v))
        out = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


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

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class TextEncoder(nn.Module):
    """Tokens [B, L] → the hidden states before the last layer [B, L, width]. The last layer is
    unused and omitted."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(TEXT["vocab_size"], TEXT["hidden_size"])
        nn.init.normal_(self.embed_tokens.weight, std=0.3)
        self.layers = nn.ModuleList(TextLayer() for _ in range(TEXT["num_hidden_layers"] - 1))

    def forward(self, tokens: Tensor) -> Tensor:
        half = TEXT["head_dim"] // 2
        frequencies = TEXT_THETA ** (-torch.arange(half, device=tokens.device) / half)
        angles = torch.arange(tokens.shape[1], device=tokens.device)[:, None, None] * frequencies
        cos, sin = angles.cos(), angles.sin()
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return x


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dim, self.heads = IMAGE["dim"], IMAGE["n_heads"]
        self.to_q, self.to_k, self.to_v = linear(dim, dim), linear(dim, dim), linear(dim, dim)
        self.to_out = nn.ModuleList([linear(dim, dim)])
        self.norm_q, self.norm_k = RMSNorm(dim // self.heads, 1e-5), RMSNorm(dim // self.heads, 1e-5)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (p.unflatten(-1, (self.heads, -1)) for p in fused(x, self.to_q, self.to_k, self.to_v))

        def rotated(x: Tensor) -> Tensor:
            even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

        q, k = rotated(self.norm_q(q)).type_as(v), rotated(self.norm_k(k)).type_as(v)
        out = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        return self.to_out[0](out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dim, hidden = IMAGE["dim"], int(IMAGE["dim"] / 3 * 8)
        self.w1, self.w2, self.w3 = linear(dim, hidden), linear(hidden, dim), linear(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = fused(x, self.w1, self.w3)
        return self.w2(F.silu(gate) * up)


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

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, time: Tensor | None = None) -> Tensor:
        if time is None:
            x = x + self.attention_norm2(self.attention(self.attention_norm1(x), cos, sin))
            return x + self.ffn_norm2(self.feed_forward(self.ffn_norm1(x)))
        scale_a, gate_a, scale_m, gate_m = self.adaLN_modulation[0](time).float().unsqueeze(1).chunk(4, -1)
        x = x + gate_a.tanh() * self.attention_norm2(self.attention(self.attention_norm1(x) * (1 + scale_a), cos, sin))
        return x + gate_m.tanh() * self.ffn_norm2(self.feed_forward(self.ffn_norm1(x) * (1 + scale_m)))


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
        self.linear = linear(IMAGE["dim"], size, bias=True)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), linear(min(IMAGE["dim"], 256), IMAGE["dim"], bias=True))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.adaLN_modulation[1].weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale = 1 + self.adaLN_modulation(time).float().unsqueeze(1)
        return self.linear(F.layer_norm(x, x.shape[-1:], eps=1e-6) * scale)


def rotation(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [L, 3] → cosine and sine [L, 1, head/2] of every pair's angle."""
    angles = []
    for axis, size in enumerate(IMAGE["axes_dims"]):
        steps = torch.arange(0, size, 2, device=positions.device, dtype=torch.float64)
        angles.append(positions[:, axis, None] * IMAGE["rope_theta"] ** (-steps / size))
    table = torch.cat(angles, -1)[:, None].float()
    return table.cos(), table.sin()


class Transformer(nn.Module):
    """Latents [B, 16, H, W], model time [B] (0: noise, 1: picture) and text features [B, L, width]
    with their lengths → minus the velocity.

    Every caption of a batch is padded to the same L, a multiple of 32, and H·W/4 is a multiple of
    32 too.
    """

    def __init__(self) -> None:
        super().__init__()
        dim, values = IMAGE["dim"], PATCH * PATCH * IMAGE["in_channels"]
        self.all_x_embedder = nn.ModuleDict({"2-1": linear(values, dim, bias=True)})
        self.all_final_layer = nn.ModuleDict({"2-1": FinalLayer(values)})
        self.noise_refiner = nn.ModuleList(Block(True) for _ in range(IMAGE["n_refiner_layers"]))
        self.context_refiner = nn.ModuleList(Block(False) for _ in range(IMAGE["n_refiner_layers"]))
        self.t_embedder = TimestepEmbedder(min(dim, 256))
        self.cap_embedder = nn.ModuleList(
            [RMSNorm(IMAGE["cap_feat_dim"], IMAGE["norm_eps"]), linear(IMAGE["cap_feat_dim"], dim, bias=True)]
        )
        self.x_pad_token = nn.Parameter(torch.zeros(1, dim))
        self.cap_pad_token = nn.Parameter(torch.randn(1, dim) * 0.3)
        self.layers = nn.ModuleList(Block(True) for _ in range(IMAGE["n_layers"]))

    def forward(self, latents: Tensor, t: Tensor, features: Tensor, lengths: Tensor) -> Tensor:
        batch, channels, height, width = latents.shape
        rows, columns, caption = height // PATCH, width // PATCH, features.shape[1]
        device = latents.device
        time = self.t_embedder(IMAGE["t_scale"] * t)

        grid = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))
        image_at = torch.cat([torch.full_like(grid[:, :1], caption + 1), grid], -1)
        caption_at = F.pad(torch.arange(1, caption + 1, device=device)[:, None], (0, 2))
        image_cos, image_sin = rotation(image_at)
        caption_cos, caption_sin = rotation(caption_at)

        patches = latents.reshape(batch, channels, rows, PATCH, columns, PATCH).permute(0, 2, 4, 3, 5, 1)
        x = self.all_x_embedder["2-1"](patches.reshape(batch, rows * columns, -1)).float()
        for block in self.noise_refiner:
            x = block(x, image_cos, image_sin, time)
        c = self.cap_embedder[1](self.cap_embedder[0](features)).float()
        c = torch.where(torch.arange(caption, device=device)[:, None] < lengths[:, None, None], c, self.cap_pad_token)
        for block in self.context_refiner:
            c = block(c, caption_cos, caption_sin)

        x = torch.cat([x, c], 1)
        cos, sin = torch.cat([image_cos, caption_cos]), torch.cat([image_sin, caption_sin])
        for block in self.layers:
            x = block(x, cos, sin, time)
        out = self.all_final_layer["2-1"](x[:, : rows * columns], time).float()
        out = out.reshape(batch, rows, columns, PATCH, PATCH, channels).permute(0, 5, 1, 3, 2, 4)
        return out.reshape(batch, channels, height, width)


class TextToImage(nn.Module):
    """Both networks, which are trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder, self.transformer = TextEncoder(), Transformer()

    def forward(self, latents: Tensor, t: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        return self.transformer(latents, t, self.text_encoder(tokens), lengths)
