"""The parts of OpenAI-style U-Nets: residual blocks, attention, changes of resolution.

Dhariwal and Nichol 2021 (arXiv 2105.05233), section 3 and appendix; module and parameter names and
numbers are those of the checkpoints of guided-diffusion, consistency models and latent diffusion.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.sampling.networks.spatial_transformer import SpatialTransformer

__all__ = [
    "AttentionBlock",
    "BlockSequence",
    "Downsample",
    "ResBlock",
    "Upsample",
    "labelled_rows",
    "norm32",
]

_GROUPS = 32


class Norm32(nn.GroupNorm):
    """A group normalisation that computes in float32 whatever the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, channels, ...]."""
        weight, bias = self.weight.float(), self.bias.float()
        made = F.group_norm(input.float(), self.num_groups, weight, bias, self.eps)
        return made.to(input.dtype)


def norm32(channels: int) -> Norm32:
    """Make a normalisation of 32 groups.

    Raises:
        ValueError: For channels that 32 groups cannot share.
    """
    return Norm32(_GROUPS, channels)


class Upsample(nn.Module):
    """Nearest neighbours at twice the resolution, then a convolution if asked for."""

    def __init__(self, channels: int, *, use_conv: bool) -> None:
        super().__init__()
        self.channels = self.out_channels = channels
        if use_conv:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.use_conv = use_conv

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels, H, W] to [B, channels, 2H, 2W]."""
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x) if self.use_conv else x


class Downsample(nn.Module):
    """A convolution of stride 2, or the mean of 2x2 pixels."""

    def __init__(self, channels: int, *, use_conv: bool) -> None:
        super().__init__()
        self.channels = self.out_channels = channels
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if use_conv else _mean()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels, H, W] to [B, channels, H/2, W/2]."""
        made: Tensor = self.op(x)
        return made


def _mean() -> nn.Module:
    return nn.AvgPool2d(kernel_size=2, stride=2)


class ResBlock(nn.Module):
    """Two convolutions beside a shortcut, conditioned per channel, with a change of resolution.

    Arguments:
        channels: Channels of the input (main path and skip together, in the decoder).
        emb_channels: Length of the conditioning vector.
        out_channels: Channels of the output.
        dropout: Probability of dropping an activation before the second convolution, in training.
        use_scale_shift_norm: Whether the condition gives a factor and a bias behind the second
            normalisation, instead of a bias before it.
        up: Whether the resolution is doubled.
        down: Whether the resolution is halved.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        out_channels: int,
        *,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = False,
        up: bool = False,
        down: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.out_channels = out_channels
        self.use_scale_shift_norm = use_scale_shift_norm
        self.in_layers = nn.Sequential(
            norm32(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )

        def change() -> nn.Module:
            if up:
                return Upsample(channels, use_conv=False)
            return Downsample(channels, use_conv=False) if down else nn.Identity()

        self.updown = up or down
        self.h_upd, self.x_upd = change(), change()
        factors = 2 if use_scale_shift_norm else 1
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, factors * out_channels))
        self.out_layers = nn.Sequential(
            norm32(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        for parameter in self.out_layers[-1].parameters():
            nn.init.zeros_(parameter)
        self.skip_connection: nn.Module = nn.Identity()
        if out_channels != channels:
            self.skip_connection = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map images [B, channels, H, W] under conditions [B, emb_channels].

        Returns:
            [B, out_channels, H', W'], H' being 2H, H or H/2.
        """
        norm, activation, conv = self.in_layers
        branch = conv(self.h_upd(activation(norm(x))))
        x = self.x_upd(x)
        condition = self.emb_layers(emb).to(branch.dtype)[:, :, None, None]
        norm, *rest = self.out_layers
        if self.use_scale_shift_norm:
            factor, bias = condition.chunk(2, dim=1)
            branch = norm(branch) * (1 + factor) + bias
        else:
            branch = norm(branch + condition)
        for layer in rest:
            branch = layer(branch)
        made: Tensor = self.skip_connection(x) + branch
        return made


class AttentionBlock(nn.Module):
    """Attention among all pixels, beside a shortcut.

    Arguments:
        channels: Of the feature map.
        heads: Of the attention.
        new_order: Whether the channels of `qkv` are all queries, all keys, all values; else they
            are one head's queries, keys and values, then the next one's.
        dims: 1 or 2: dimensions of the kernels of its 1x1 convolutions, which decides about the
            shape of their weights alone. Those of consistency models have 2.

    Raises:
        ValueError: For channels that the heads cannot share.
    """

    def __init__(self, channels: int, heads: int, *, new_order: bool, dims: int) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads")
        self.channels = channels
        self.heads = heads
        self.new_order = new_order
        conv = nn.Conv1d if dims == 1 else nn.Conv2d
        self.norm = norm32(channels)
        self.qkv = conv(channels, 3 * channels, 1)
        self.proj_out = conv(channels, channels, 1)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map a feature map [B, channels, H, W]."""
        pixels = self._project(self.qkv, self.norm(x).flatten(2))
        parts = (3, self.heads) if self.new_order else (self.heads, 3)
        packed = pixels.unflatten(1, (*parts, -1))
        query, key, value = packed.transpose(-1, -2).unbind(1 if self.new_order else 2)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2).flatten(1, 2)
        return x + self._project(self.proj_out, mixed).reshape(x.shape)

    @staticmethod
    def _project(conv: nn.Module, x: Tensor) -> Tensor:
        weight: Tensor = conv.weight  # type: ignore[assignment]
        bias: Tensor = conv.bias  # type: ignore[assignment]
        return F.conv1d(x, weight.flatten(2), bias)


class BlockSequence(nn.Sequential):
    """Layers one after another, each given the conditions it knows."""

    def forward(  # type: ignore[override]
        self, input: Tensor, emb: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """Map a feature map [B, C, H, W] under conditions [B, emb_channels] and tokens."""
        for layer in self:
            if isinstance(layer, ResBlock):
                input = layer(input, emb)
            elif isinstance(layer, SpatialTransformer):
                assert context is not None
                input = layer(input, context)
            else:
                input = layer(input)
        return input


def labelled_rows(weight: Tensor, labels: Tensor | None, classes: int, images: int) -> Tensor:
    """Return what an embedding of classes makes of labels.

    Arguments:
        weight: [rows, width]: one row per class; one more than there are classes where the last
            stands for no label.
        labels: One-hot rows [B or 1, classes]; None or zeros mean no label.
        classes: How many there are.
        images: B.

    Returns:
        [B, width]; zeros for an image without a label where no row stands for that.
    """
    if labels is None:
        labels = weight.new_zeros(images, classes)
    labels = labels.to(weight.dtype).expand(images, -1)
    if classes < weight.shape[0]:
        labels = torch.cat([labels, 1 - labels.sum(1, keepdim=True)], dim=1)
    return labels @ weight
