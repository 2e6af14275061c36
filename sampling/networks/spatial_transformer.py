"""Transformers over the pixels of a feature map that also look at a context (Rombach et al. 2022).

Section 3.3 and appendix E.2.1 of arXiv 2112.10752: attention among the pixels, attention to the
context's tokens, a gated feed-forward layer (Shazeer 2020, arXiv 2002.05202). Module and parameter
names are those of the published checkpoints of latent diffusion.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SpatialTransformer"]

_GROUPS = 32
_EPS = 1e-6
_WIDER = 4  # the feed-forward layer's inner width, in multiples of its outer one


class SpatialTransformer(nn.Module):
    """A transformer over a feature map, beside a shortcut.

    Arguments:
        in_channels: Channels of the feature map, divisible by 32.
        heads: Of every attention.
        head_channels: Channels of one head.
        depth: Transformer blocks.
        context_dim: Length of a token of the context.
    """

    def __init__(
        self, in_channels: int, heads: int, head_channels: int, *, depth: int, context_dim: int
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        inner = heads * head_channels
        self.norm = nn.GroupNorm(_GROUPS, in_channels, eps=_EPS)
        self.proj_in = nn.Conv2d(in_channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(inner, heads, head_channels, context_dim) for _ in range(depth)
        )
        self.proj_out = nn.Conv2d(inner, in_channels, 1)
        nn.init.zeros_(self.proj_out.weight)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map a feature map [B, in_channels, H, W] under tokens [B, T, context_dim]."""
        batch, _, height, width = x.shape
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        pixels = tokens.transpose(1, 2).reshape(batch, -1, height, width)
        made: Tensor = self.proj_out(pixels)
        return x + made


class TransformerBlock(nn.Module):
    """Attention among tokens, attention to a context, and a gated feed-forward layer."""

    def __init__(self, channels: int, heads: int, head_channels: int, context_dim: int) -> None:
        super().__init__()
        self.attn1 = Attention(channels, channels, heads, head_channels)
        self.ff = FeedForward(channels)
        self.attn2 = Attention(channels, context_dim, heads, head_channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map tokens [B, N, channels] under tokens [B, T, context_dim]."""
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), context)
        made: Tensor = x + self.ff(self.norm3(x))
        return made


class Attention(nn.Module):
    """Attention of tokens to others, in several heads; queries, keys and values have no bias."""

    def __init__(self, channels: int, other_channels: int, heads: int, head_channels: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_channels
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(other_channels, inner, bias=False)
        self.to_v = nn.Linear(other_channels, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, channels), nn.Dropout(0.0))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Map tokens [B, N, channels] that look at tokens [B, T, other_channels]."""
        query, key, value = (
            rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for rows in (self.to_q(x), self.to_k(other), self.to_v(other))
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        made: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return made


class Gated(nn.Module):
    """A linear layer of which one half, through GELU, multiplies the other."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., channels] to [..., inner]."""
        made, gate = self.proj(x).chunk(2, dim=-1)
        gated: Tensor = made * F.gelu(gate)
        return gated


class FeedForward(nn.Module):
    """The feed-forward layer of a transformer block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = _WIDER * channels
        self.net = nn.Sequential(
            Gated(channels, inner), nn.Dropout(0.0), nn.Linear(inner, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [..., channels]."""
        made: Tensor = self.net(x)
        return made
