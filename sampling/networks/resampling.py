"""Convolutions that change the resolution by two through a separable filter.

A filter row f acts as the outer product of itself, normalised to sum 1. Halving keeps every
second sample of the filtered image; doubling puts zeros between the samples, filters, and
multiplies by 4 so that the mean is kept (Karras et al. 2020, arXiv 1912.04958, appendix B; used by
NCSN++ in Song et al. 2021, arXiv 2011.13456, section 4.1). Outside the image there are zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Direction", "Resample2d", "ResampledConv2d", "resample"]

Direction = Literal["none", "up", "down"]


def resample(x: Tensor, kernel: Tensor, *, direction: Direction, margin: int = 0) -> Tensor:
    """Double or halve the resolution of an image with a filter.

    Arguments:
        x: Images [B, C, H, W].
        kernel: The filter [1, 1, k, k], k even, sum 1.
        direction: ``up``, ``down``, or ``none`` (returns x).
        margin: Border pixels that x already carries on each side, for ``down`` only.

    Returns:
        [B, C, 2H, 2W], or [B, C, H', W'] with H' = (H - 2 margin) / 2.
    """
    if direction == "none":
        return x
    channels, taps = x.shape[1], kernel.shape[-1]
    padding = (taps - 1) // 2 - margin
    if taps == 2 and padding == 0:
        # Two equal taps: the mean of 2x2 pixels, and its transpose, repetition. Depthwise
        # convolutions give the same numbers several times slower on CPUs.
        return F.avg_pool2d(x, 2) if direction == "down" else F.interpolate(x, scale_factor=2.0)
    weight = kernel.to(x.dtype).expand(channels, 1, taps, taps)
    if direction == "down":
        return F.conv2d(x, weight, stride=2, padding=padding, groups=channels)
    return F.conv_transpose2d(x, 4 * weight, stride=2, padding=padding, groups=channels)


def _kernel(row: Sequence[float]) -> Tensor:
    if len(row) % 2 or (len(row) == 2 and row[0] != row[1]):
        raise ValueError(f"a resampling filter has an even number of taps, symmetric: {row}")
    taps = torch.tensor([float(tap) for tap in row])
    taps = taps / taps.sum()
    return torch.outer(taps, taps)[None, None]


class Resample2d(nn.Module):
    """Doubles or halves the resolution, no weights.

    Arguments:
        direction: ``up`` or ``down``.
        row: One row of the separable filter, e.g. (1, 3, 3, 1); an even number of taps.
        persistent: Whether the filter belongs to the module's state.
    """

    resample_filter: Tensor

    def __init__(
        self, direction: Direction, row: Sequence[float], *, persistent: bool = True
    ) -> None:
        super().__init__()
        self.direction: Direction = direction
        self.register_buffer("resample_filter", _kernel(row), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, 2H, 2W] or [B, C, H/2, W/2]."""
        return resample(x, self.resample_filter, direction=self.direction)


class ResampledConv2d(nn.Conv2d):
    """A convolution with zero padding to equal size, after or before a change of resolution.

    Arguments:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Odd kernel size.
        direction: Change of resolution.
        row: One row of the separable filter; unused for direction ``none``.
        convolve_first: Convolve at the high resolution, then halve (``down`` only); the
            convolution then also covers the border that the filter reads, instead of zeros.
        gain: Factor on the uniform initialisation of Glorot and Bengio 2010; biases start at 0.
    """

    resample_filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        direction: Direction = "none",
        row: Sequence[float] = (1, 1),
        convolve_first: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)
        self.direction: Direction = direction
        self.convolve_first = convolve_first
        self.register_buffer("resample_filter", None if direction == "none" else _kernel(row))
        nn.init.xavier_uniform_(self.weight, gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, out_channels, H', W']."""
        if self.resample_filter is None:
            return super().forward(x)
        if not self.convolve_first:
            x = resample(x, self.resample_filter, direction=self.direction)
            return super().forward(x)
        margin = (self.resample_filter.shape[-1] - 1) // 2
        x = F.conv2d(x, self.weight, padding=self.kernel_size[0] // 2 + margin)
        x = resample(x, self.resample_filter, direction=self.direction, margin=margin)
        return x if self.bias is None else x + self.bias[:, None, None]
