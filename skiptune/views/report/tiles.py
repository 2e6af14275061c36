"""Images as ``data:`` addresses, so that a report holds its pictures itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skiptune.views.report.blocks import Pair, Tile

__all__ = ["LARGEST", "pair_of"]

LARGEST: Final = 192
"""Width and height in pixels from which on images are made smaller."""

PNG_BELOW: Final = 65  # larger photographs are JPEG: a report is sent by mail
QUALITY: Final = 90


def pair_of(
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    seeds: Sequence[int],
    *,
    names: tuple[str, str],
    caption: str,
) -> Pair:
    """Return the same seeds before and after.

    Arguments:
        before: uint8 [N, C, H, W] of the untouched network, C 1 or 3.
        after: Of the schedule.
        seeds: N of them.
        names: What the two are called.
        caption: What is shown.
    """
    height, width = before.shape[2:]
    shrink = min(1.0, LARGEST / max(height, width))
    side = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    if shrink < 1:
        caption += f" Shown at {side[0]} x {side[1]} of {width} x {height} pixels."
    return Pair(
        before=_tiles(before, seeds, side, names[0]),
        after=_tiles(after, seeds, side, names[1]),
        side=side,
        caption=caption,
        names=names,
    )


def _tiles(
    images: NDArray[np.uint8], seeds: Sequence[int], side: tuple[int, int], name: str
) -> list[Tile]:
    return [
        Tile(_address(pixels, side), f"seed {seed}, {name}")
        for pixels, seed in zip(images, seeds, strict=True)
    ]


def _address(pixels: NDArray[np.uint8], side: tuple[int, int]) -> str:
    picture = Image.fromarray(
        pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    )
    if picture.size != side:
        picture = picture.resize(side, Image.Resampling.LANCZOS)
    kind, data = "png", _file(picture, "PNG")
    if max(side) >= PNG_BELOW:
        # Small images that were enlarged are smaller as PNG, photographs as JPEG.
        other = _file(picture, "JPEG", quality=QUALITY)
        if len(other) < len(data):
            kind, data = "jpeg", other
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _file(picture: Image.Image, form: str, **options: int) -> bytes:
    data = io.BytesIO()
    picture.save(data, format=form, optimize=True, **options)
    return data.getvalue()
