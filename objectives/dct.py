"""The lowest frequencies of an image, d = 64: where it is bright and how strong its contrast is.

Coefficients of the two-dimensional discrete cosine transform (Ahmed, Natarajan and Rao, IEEE
Transactions on Computers C-23, 1974; type II, orthonormal) of the mean over the colours, 8 by 8
of them, divided by the root of the number of pixels, so that images of all sizes are alike. They
are what the first principal components of pixels come to, without a data set to take them from.
Nothing is trained, and nothing of texture is seen: the counterpart of `random-patches`.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from skiptune.errors import ObjectiveError
from skiptune.objectives.names import DCT
from skiptune.objectives.pixels import three_channels

__all__ = ["DIM", "PREPROCESS", "SHA256", "LowFrequencies"]

_SIDE = 8
DIM = _SIDE**2
_SCALE = 10.0  # of the features: Frechet distances then have digits before the point

PREPROCESS = (
    "uint8 [N, 1 or 3, H, W], x / 127.5 - 1, mean of the channels, orthonormal DCT-II, "
    f"{_SIDE}x{_SIDE} lowest frequencies row by row, x {_SCALE:g} / sqrt(HW)"
)

SHA256 = hashlib.sha256(PREPROCESS.encode()).hexdigest()
"""Of the definition: there are no weights."""


class LowFrequencies(nn.Module):
    """The transform."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.arange(_SIDE, dtype=torch.float64))

    def forward(self, levels: Tensor) -> Tensor:
        """Return the features.

        Arguments:
            levels: uint8 or float32 [N, 1 or 3, H, W], 0..255; H and W at least 8.

        Raises:
            ObjectiveError: For smaller images or another number of channels.

        Returns:
            float32 [N, 64].
        """
        height, width = levels.shape[2:]
        if min(height, width) < _SIDE:
            raise ObjectiveError(
                f"images for {DCT}",
                expected=f"at least {_SIDE}x{_SIDE} pixels",
                found=f"{height}x{width}",
                hint="choose other features",
            )
        x = (three_channels(levels, DCT) / 127.5 - 1).mean(dim=1)
        found = self._waves(height) @ x @ self._waves(width).T
        return found.flatten(1) * (_SCALE / math.sqrt(height * width))

    def _waves(self, size: int) -> Tensor:
        """Return the orthonormal cosines, float32 [8, size]."""
        places = torch.arange(size, dtype=torch.float64, device=self.frequencies.device) + 0.5
        waves = torch.cos(torch.outer(self.frequencies, places) * (math.pi / size))
        waves *= math.sqrt(2 / size)
        waves[0] *= math.sqrt(0.5)
        return waves.to(torch.float32)
