"""Features that nobody has trained: random convolutions, averaged over positions, d = 64.

Two layers of random filters with ReLU look at patches of 5x5 and of 14x14 pixels; a feature is a
filter's mean over all positions. They know nothing of classes and share no weights with any
network that was trained, so a schedule that only pleases the features of a search has no reason
to please these. As a distance of its own it is coarse: it sees edges and texture.

The filters are a function of nothing: Philox4x32-10 with a fixed key, counted by layer and
element; a weight is the centred sum of the block's four words (Irwin and Hall's distribution,
of variance 1 after scaling), which float64 holds exactly, so all platforms have the same ones.

References:
    Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011 (Philox).
    Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, 2020,
    https://arxiv.org/abs/2002.09797 (randomly initialised embeddings beside trained ones).
"""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiptune.errors import ObjectiveError
from skiptune.objectives.names import RANDOM_PATCHES
from skiptune.objectives.pixels import three_channels
from skiptune.sampling.noise import philox

__all__ = ["DIM", "PREPROCESS", "RandomPatches", "weights_sha256"]

DIM = 64
PREPROCESS = "uint8 [N, 1 or 3, H, W], x / 127.5 - 1, grey repeated, features x 10"

_FILTERS = 32  # of each layer
_KERNEL = 5
_SCALE = 10.0  # of the features: Frechet distances then have digits before the point
_STRIDES = (1, 2)  # with an average over 2x2 pixels between the layers: patches of 14x14
_KEY = (0x736B6970, 0x74756E65)  # "skip", "tune"
_LEAST = 14  # side of a patch of the second layer
_WORD = 2**32


class RandomPatches(nn.Module):
    """The network; its filters are buffers, equal on every platform."""

    def __init__(self) -> None:
        super().__init__()
        inputs = 3
        for layer in (0, 1):
            shape = (_FILTERS, inputs, _KERNEL, _KERNEL)
            # Scaled as He et al. 2015 initialise layers before a ReLU: sizes stay near 1.
            filters = _drawn(math.prod(shape), layer).reshape(shape)
            # Without a sum nothing sees plain brightness, in which most of the variance would lie.
            filters = filters - filters.mean(dim=(1, 2, 3), keepdim=True)
            scale = math.sqrt(2 / (inputs * _KERNEL**2))
            self.register_buffer(f"filters_{layer}", (filters * scale).to(torch.float32))
            offsets = _drawn(_FILTERS, 2 + layer) * 0.5
            self.register_buffer(f"offsets_{layer}", offsets.to(torch.float32))
            inputs = _FILTERS

    def forward(self, levels: Tensor) -> Tensor:
        """Return the features.

        Arguments:
            levels: uint8 or float32 [N, 1 or 3, H, W], 0..255; H and W at least 14.

        Raises:
            ObjectiveError: For smaller images or another number of channels.

        Returns:
            Ten times the means of both layers over all positions, float32 [N, 64], all >= 0.
        """
        if min(levels.shape[2:]) < _LEAST:
            raise ObjectiveError(
                f"images for {RANDOM_PATCHES}",
                expected=f"at least {_LEAST}x{_LEAST} pixels",
                found=f"{levels.shape[2]}x{levels.shape[3]}",
                hint="choose other features",
            )
        x = three_channels(levels, RANDOM_PATCHES) / 127.5 - 1
        first = F.relu(self._layer(x, 0))
        second = F.relu(self._layer(F.avg_pool2d(first, 2), 1))
        return _SCALE * torch.cat([first.mean(dim=(2, 3)), second.mean(dim=(2, 3))], dim=1)

    def _layer(self, x: Tensor, layer: int) -> Tensor:
        filters, offsets = getattr(self, f"filters_{layer}"), getattr(self, f"offsets_{layer}")
        return F.conv2d(x, filters, offsets, stride=_STRIDES[layer])


def weights_sha256(network: RandomPatches) -> str:
    """Return the SHA-256 of the filters, float32 in little-endian order."""
    parts = (part.detach().cpu().numpy().astype("<f4").tobytes() for part in network.buffers())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _drawn(count: int, draw: int) -> Tensor:
    """Return numbers of mean 0 and variance 1, float64 [count], for a draw's number."""
    block = torch.arange(count, dtype=torch.int64)
    rest = (block.new_full((1,), value) for value in (draw, 0, 0))
    key = (block.new_tensor([_KEY[0]]), block.new_tensor([_KEY[1]]))
    total = torch.stack(philox((block, *rest), key)).sum(dim=0)
    # The variance of a sum of four uniform numbers is 4 / 12.
    return (total - 2 * (_WORD - 1)).to(torch.float64) / _WORD * math.sqrt(3)
