"""Grids of images with captions: the same seeds in every row, so that rows can be compared."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from skiptune.search.output import write_whole

__all__ = ["Row", "folded", "grid", "png", "write_picture"]

GAP = 2  # pixels between images
CAPTION = 12  # pixels: the smallest size at which the font is easily read
MARGIN = 6
SMALL = 64  # images below this size are magnified
BACKGROUND, INK = (255, 255, 255), (40, 40, 40)


@dataclass(frozen=True)
class Row:
    """A caption and the images below it.

    Arguments:
        caption: One line; cut where it is wider than the picture.
        images: uint8 array of shape [N, C, H, W], C 1 or 3.
    """

    caption: str
    images: NDArray[np.uint8]


def grid(rows: Sequence[Row], *, magnify: int | None = None) -> Image.Image:
    """Return one picture of all rows, each under its caption; empty captions take no room.

    Arguments:
        rows: At least one; images of one size.
        magnify: Pixels per pixel, nearest neighbour; by default 2 for images below 64 x 64.

    Raises:
        ValueError: No rows, or images of different or unusable shapes.
    """
    if not rows:
        raise ValueError("a picture needs at least one row")
    shapes = {row.images.shape[1:] for row in rows}
    channels, height, width = next(iter(shapes)) if len(shapes) == 1 else (0, 0, 0)
    if channels not in (1, 3) or any(row.images.dtype != np.uint8 for row in rows):
        raise ValueError(f"expected uint8 images [N, 1 or 3, H, W] of one size, found {shapes}")
    scale = magnify or (2 if max(height, width) < SMALL else 1)
    height, width = height * scale, width * scale
    columns = max(len(row.images) for row in rows)
    heads = [CAPTION + 6 if row.caption else 0 for row in rows]
    size = (
        2 * MARGIN + columns * (width + GAP) - GAP,
        2 * MARGIN + sum(heads) + len(rows) * (height + GAP) - GAP,
    )
    picture = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=CAPTION)
    top = MARGIN
    for row, head in zip(rows, heads, strict=True):
        if row.caption:
            draw.text((MARGIN, top), row.caption, fill=INK, font=font)
        top += head
        for column, pixels in enumerate(row.images):
            picture.paste(
                _image(pixels).resize((width, height), Image.Resampling.NEAREST),
                (MARGIN + column * (width + GAP), top),
            )
        top += height + GAP
    return picture


def folded(row: Row, columns: int | None = None) -> list[Row]:
    """Break a long row into rows of at most so many images; only the first keeps its caption.

    Arguments:
        row: The row.
        columns: Images in a row; by default the picture becomes about square.
    """
    count = len(row.images)
    columns = columns or max(1, math.ceil(math.sqrt(count)))
    return [
        Row(row.caption if start == 0 else "", row.images[start : start + columns])
        for start in range(0, count, columns)
    ]


def write_picture(path: Path, rows: Sequence[Row], *, force: bool = False) -> Path:
    """Write a grid as PNG; the file is there whole or not at all.

    Arguments:
        path: Where.
        rows: As `grid`.
        force: Replace an existing file.

    Raises:
        OutputError: The file exists and `force` is not set, or it cannot be written.
    """
    data = io.BytesIO()
    grid(rows).save(data, format="PNG", optimize=True)
    write_whole(path, data.getvalue(), force=force)
    return path


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return one image, uint8 [1 or 3, H, W], as the content of a PNG file."""
    data = io.BytesIO()
    _image(pixels).save(data, format="PNG")
    return data.getvalue()


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    if pixels.shape[0] == 1:
        return Image.fromarray(pixels[0])
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
