"""Random numbers: one stream per image, so that an image depends on its seed and nothing else.

Numbers are drawn on the CPU, whatever the device, in EDM's order: the latent, then the label, then
the churn noise of every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["ImageStreams"]


class ImageStreams:
    """The random streams of several images.

    Arguments:
        seeds: One per image; a generator takes seed modulo 2^32, as EDM's does.
        device: Where the drawn tensors go.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seeds = tuple(int(seed) for seed in seeds)
        self.device = torch.device(device)
        self._generators = [torch.Generator().manual_seed(seed % 2**32) for seed in self.seeds]

    def __len__(self) -> int:
        return len(self.seeds)

    def randn(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers [N, *shape]."""
        drawn = torch.empty(len(self), *shape, dtype=dtype)
        for row, generator in zip(drawn, self._generators, strict=True):
            row.normal_(generator=generator)
        return drawn.to(self.device)

    def randint(self, high: int) -> Tensor:
        """Draw whole numbers from 0 to high - 1, int64 [N]."""
        drawn = [torch.randint(high, (), generator=generator) for generator in self._generators]
        return torch.stack(drawn).to(self.device)

    def randn_like(self, x: Tensor) -> Tensor:
        """Draw standard normal numbers of the shape [N, ...] and dtype of `x`.

        The dtype matters: float32 and float64 numbers of one stream differ. EDM draws churn
        noise in the dtype of its state, float64.
        """
        return self.randn(x.shape[1:], x.dtype).to(x.device)
