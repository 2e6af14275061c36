"""A network of the structure and the names of lucidrains' `Unet`, whose package is an extra."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Unet", "package"]


class Block(nn.Module):
    def __init__(self, received: int, made: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(received, made, 3, padding=1)

    def forward(self, x: Tensor, scale: Tensor | float = 0.0) -> Tensor:
        made = F.normalize(self.proj(x), dim=1) * math.sqrt(self.proj.out_channels)
        return F.silu(made * (scale + 1))


class ResnetBlock(nn.Module):
    def __init__(self, received: int, made: int, times: int) -> None:
        super().__init__()
        self.mlp = nn.Linear(times, made)
        self.block1, self.block2 = Block(received, made), Block(made, made)
        self.res_conv = nn.Conv2d(received, made, 1) if received != made else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        made = self.block2(self.block1(x, self.mlp(t)[:, :, None, None]))
        out: Tensor = made + self.res_conv(x)
        return out


class Unet(nn.Module):
    """Two skips per level, and one of the first convolution."""

    def __init__(
        self, dim: int, *, dim_mults: Sequence[int], channels: int, **unused: Any
    ) -> None:
        super().__init__()
        dims = [dim, *(dim * mult for mult in dim_mults)]
        pairs, last = list(pairwise(dims)), len(dim_mults) - 1
        self.init_conv = nn.Conv2d(channels, dim, 7, padding=3)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, (above, below) in enumerate(pairs):
            down = nn.Conv2d(above, below, 3, padding=1)
            halved = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(above, below, 1))
            row = [ResnetBlock(above, above, dim), ResnetBlock(above, above, dim)]
            self.downs.append(
                nn.ModuleList([*row, nn.Identity(), down if level == last else halved])
            )
        self.mid_block1 = ResnetBlock(dims[-1], dims[-1], dim)
        self.mid_block2 = ResnetBlock(dims[-1], dims[-1], dim)
        for level, (above, below) in reversed(list(enumerate(pairs))):
            up = nn.Conv2d(below, above, 3, padding=1)
            doubled = nn.Sequential(nn.Upsample(scale_factor=2), up)
            row = [ResnetBlock(above + below, below, dim) for _ in range(2)]
            self.ups.append(nn.ModuleList([*row, nn.Identity(), doubled if level else up]))
        self.final_res_block = ResnetBlock(2 * dim, dim, dim)
        self.final_conv = nn.Conv2d(dim, channels, 1)
        self.dim = dim
        self.factors: dict[str, float] = {}

    def forward(self, x: Tensor, time: Tensor, x_self_cond: None = None) -> Tensor:
        assert x_self_cond is None
        t = torch.sin(time[:, None] / 100 * torch.arange(1, self.dim + 1))
        x = self.init_conv(x)
        first, skips = x.clone(), []
        for block1, block2, _, down in self.downs:
            x = block1(x, t)
            skips.append(x)
            x = block2(x, t)
            skips.append(x)
            x = down(x)
        x = self.mid_block2(self.mid_block1(x, t), t)
        for level, (block1, block2, _, up) in enumerate(self.ups):
            x = block1(self.joined(x, skips.pop(), f"ups.{level}.0"), t)
            x = up(block2(self.joined(x, skips.pop(), f"ups.{level}.1"), t))
        x = self.final_res_block(self.joined(x, first, "final_res_block"), t)
        made: Tensor = self.final_conv(x)
        return made

    def joined(self, x: Tensor, skip: Tensor, name: str) -> Tensor:
        return torch.cat((x, skip * self.factors.get(name, 1.0)), dim=1)


def package() -> ModuleType:
    """Return what stands for the package."""
    made = ModuleType("denoising_diffusion_pytorch")
    vars(made)["Unet"] = Unet
    return made
