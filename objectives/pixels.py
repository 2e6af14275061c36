"""Pixels on their way into a feature network: levels 0..255, as bytes or as differentiable floats.

A *level* is a byte's value. Float images in [-1, 1] become levels by x * 127.5 + 127.5, which is
what `skiptune.sampling.images.to_uint8` does before it cuts off, so an image on the grid of
bytes has the same features by either way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skiptune.errors import ObjectiveError

__all__ = ["levels_of", "resized", "three_channels"]

_COLOURS = 3


def levels_of(images: Tensor) -> Tensor:
    """Map float images to levels without rounding.

    Arguments:
        images: Floats [N, C, H, W]; values outside [-1, 1] are clamped, as bytes would be.

    Returns:
        float32 [N, C, H, W], 0..255, with gradient to `images`, zero from the ends of the range
        on.
    """
    # float64 stays float64 until the end: on the grid of bytes the levels are then whole.
    wide = images if images.dtype == torch.float64 else images.to(torch.float32)
    return (wide.clamp(-1, 1) * 127.5 + 127.5).to(torch.float32)


def three_channels(levels: Tensor, name: str) -> Tensor:
    """Return levels as float32 [N, 3, H, W], grey ones repeated.

    Arguments:
        levels: uint8 or float32 [N, 1 or 3, H, W].
        name: Of the extractor, for the message.

    Raises:
        ObjectiveError: For another number of channels.
    """
    if levels.shape[1] not in (1, _COLOURS):
        raise ObjectiveError(
            f"images for {name}",
            expected="1 or 3 channels",
            found=f"{levels.shape[1]} channels",
            hint="score latents after decoding them",
        )
    return levels.to(torch.float32).expand(-1, _COLOURS, -1, -1)


def resized(levels: Tensor, size: int) -> Tensor:
    """Resize to `size` x `size` by bicubic interpolation with antialias, neither rounded nor cut.

    Arguments:
        levels: float32 [N, C, H, W].
        size: Side of the result, pixels.

    Returns:
        float32 [N, C, size, size], which may leave 0..255 a little beside edges.
    """
    return F.interpolate(levels, size=(size, size), mode="bicubic", antialias=True)
