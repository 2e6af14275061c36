"""Embeddings of the noise level: sines and cosines of the label at several frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["FourierEmbedding", "PositionalEmbedding", "time_embedding"]


def time_embedding(times: Tensor, channels: int) -> Tensor:
    """Return cosines, then sines, of time steps at geometric frequencies from 1 towards 1/10000.

    In the order of operations of the published networks: at time steps around 1000 the last bits
    of a frequency matter.

    Arguments:
        times: Time steps [B].
        channels: Length of the embedding; an odd one ends in 0.

    Returns:
        float32 [B, channels].

    References:
        Ho et al. 2020 (DDPM), as in Dhariwal and Nichol 2021 (arXiv 2105.05233).
    """
    half = channels // 2
    steps = torch.arange(half, device=times.device, dtype=torch.float32)
    angles = times.float()[:, None] * torch.exp(-math.log(10_000) * steps / half)
    parts = [angles.cos(), angles.sin()]
    if channels % 2:
        parts.append(torch.zeros_like(angles[:, :1]))
    return torch.cat(parts, dim=1)


class PositionalEmbedding(nn.Module):
    """Geometric frequencies from 1 down to 1/10000 (Ho et al. 2020, DDPM).

    Arguments:
        channels: Length of the embedding, even, at least 4.
        endpoint: Whether 1/10000 is included; ADM stops one step above it.
        sines_first: Whether the sines come before the cosines; ADM has them after.
    """

    def __init__(self, channels: int, *, endpoint: bool = True, sines_first: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.endpoint = endpoint
        self.sines_first = sines_first

    def forward(self, labels: Tensor) -> Tensor:
        """Map noise labels [B] to [B, channels]."""
        half = self.channels // 2
        steps = torch.arange(half, device=labels.device, dtype=torch.float32)
        last = half - 1 if self.endpoint else half
        frequencies = torch.exp(steps * (-math.log(10_000) / last))
        angles = labels[:, None] * frequencies.to(labels.dtype)
        parts = [angles.sin(), angles.cos()]
        return torch.cat(parts if self.sines_first else parts[::-1], dim=1)


class FourierEmbedding(nn.Module):
    """Random frequencies, normal with standard deviation 16 turns (Song et al. 2021, NCSN++).

    Arguments:
        channels: Length of the embedding, even.
    """

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(channels // 2))

    def forward(self, labels: Tensor) -> Tensor:
        """Map noise labels [B] to [B, channels]."""
        angles = labels[:, None] * (2 * math.pi * self.freqs).to(labels.dtype)
        return torch.cat([angles.sin(), angles.cos()], dim=1)
