"""Known damage to images, by strength: what a metric must see and rank."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["blur", "contrast", "noise", "without_class"]

Images = NDArray[np.uint8]


def blur(images: Images, *, sigma: float) -> Images:
    """Blur with a Gaussian of `sigma` pixels, uint8 [N, C, H, W]."""
    reach = max(1, int(np.ceil(4 * sigma)))
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2)).astype(np.float32)
    kernel /= kernel.sum()
    pixels = images.astype(np.float32)
    for axis in (2, 3):
        width = [(0, 0)] * 4
        width[axis] = (reach, reach)
        wide = np.pad(pixels, width)
        side = images.shape[axis]
        pixels = sum(
            weight * np.take(wide, np.arange(start, start + side), axis=axis)
            for start, weight in enumerate(kernel)
        )
    return _levels(pixels)


def noise(images: Images, *, deviation: float, seed: int) -> Images:
    """Add white Gaussian noise of `deviation` grey levels."""
    generator = np.random.default_rng(seed)
    drawn = generator.standard_normal(images.shape, dtype=np.float32)
    return _levels(images + np.float32(deviation) * drawn)


def contrast(images: Images, *, factor: float) -> Images:
    """Multiply the grey levels, black staying black, by `factor` >= 0."""
    return _levels(images.astype(np.float32) * np.float32(factor))


def without_class(labels: NDArray[np.int64], *, label: int, share: float) -> NDArray[np.bool_]:
    """Return which images stay, bool [N], when the first `share` (0..1) of a class goes."""
    members = np.flatnonzero(labels == label)
    stays = np.ones(len(labels), dtype=np.bool_)
    stays[members[: round(share * len(members))]] = False
    return stays


def _levels(pixels: NDArray[np.floating]) -> Images:
    levels: Images = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return levels
