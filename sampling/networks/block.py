"""The residual block of DDPM++ and NCSN++, with an optional change of resolution and attention.

Ho et al. 2020 with the changes of Song et al. 2021 (section 4.1 and appendix H): BigGAN-style
resampling on both branches, every sum rescaled by 1/sqrt(2), one attention head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.sampling.networks.resampling import Direction, ResampledConv2d

__all__ = ["ResidualBlock", "group_norm", "linear"]

_MAX_GROUPS = 32
_MIN_GROUP_CHANNELS = 4
# The last layer of a branch starts close to zero, so that a block starts as its shortcut.
_BRANCH_END_GAIN = 1e-5
_ATTENTION_GAIN = math.sqrt(0.2)
_SUM_SCALE = math.sqrt(0.5)


def group_norm(channels: int, *, eps: float = 1e-6) -> nn.GroupNorm:
    """Make a group normalisation: 32 groups, fewer where a group would have under 4 channels."""
    groups = min(_MAX_GROUPS, channels // _MIN_GROUP_CHANNELS)
    return nn.GroupNorm(groups, channels, eps=eps)


def linear(in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
    """Make a linear layer: uniform Glorot weights, zero biases."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, conditioned by a bias per channel; then attention.

    Arguments:
        in_channels: Channels of the input (main path and skip together, in the decoder).
        out_channels: Channels of the output.
        emb_channels: Length of the conditioning vector.
        direction: Change of resolution.
        row: One row of the resampling filter.
        attention: Whether self-attention over all pixels follows.
        dropout: Probability of dropping an activation before the second convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        direction: Direction = "none",
        row: Sequence[float] = (1, 1),
        attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.dropout = dropout
        self.attention = attention
        self.norm0 = group_norm(in_channels)
        self.conv0 = ResampledConv2d(in_channels, out_channels, 3, direction=direction, row=row)
        self.affine = linear(emb_channels, out_channels)
        self.norm1 = group_norm(out_channels)
        self.conv1 = ResampledConv2d(out_channels, out_channels, 3, gain=_BRANCH_END_GAIN)
        self.skip: ResampledConv2d | None = None
        if direction != "none" or in_channels != out_channels:
            self.skip = ResampledConv2d(in_channels, out_channels, 1, direction=direction, row=row)
        if attention:
            self.norm2 = group_norm(out_channels)
            self.qkv = ResampledConv2d(out_channels, 3 * out_channels, 1, gain=_ATTENTION_GAIN)
            self.proj = ResampledConv2d(out_channels, out_channels, 1, gain=_BRANCH_END_GAIN)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] under conditions [B, emb_channels].

        Returns:
            [B, out_channels, H', W'], H' being 2H, H or H/2.
        """
        shortcut = x if self.skip is None else self.skip(x)
        branch = self.conv0(F.silu(self.norm0(x))) + self.affine(emb)[:, :, None, None]
        branch = F.dropout(F.silu(self.norm1(branch)), self.dropout, self.training)
        y: Tensor = (self.conv1(branch) + shortcut) * _SUM_SCALE
        return (self._attend(y) + y) * _SUM_SCALE if self.attention else y

    def _attend(self, x: Tensor) -> Tensor:
        # The rows of `qkv` are interleaved: query, key, value of channel 0, then of channel 1, ...
        batch, channels, height, width = x.shape
        packed = self.qkv(self.norm2(x)).reshape(batch, channels, 3, height * width)
        query, key, value = packed.float().permute(2, 0, 3, 1).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value).to(x.dtype)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(x.shape))
        return projected
