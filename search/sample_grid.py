"""The picture of an evaluation: its first images, kept by the worker that has them at hand.

Nothing is sampled for it. The chunk of the search's first seeds shows every schedule on the same
seeds, so two pictures can be compared image by image. What made a picture is written into the
file; the database names it by series and schedule, which all studies share.
"""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, PngImagePlugin

from skiptune.canonical import digest
from skiptune.errors import SkiptuneError
from skiptune.search.events import Listener, Notice
from skiptune.storage import ledger
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database
from skiptune.storage.leases import Claim
from skiptune.storage.pictures import PNG

__all__ = ["COLUMNS", "GRID_IMAGES", "LONGEST_SIDE", "MOST_BYTES", "grid_png", "keep_grid"]

GRID_IMAGES: Final = 16
"""Images in a picture, of consecutive seeds from the search's first one on."""

COLUMNS: Final = 8

LONGEST_SIDE: Final = 128
"""Pixels an image takes at most: larger ones are shrunk, smaller ones enlarged in whole steps."""

MOST_BYTES: Final = 400_000
"""A picture that would be larger shows its images at half the size."""

_GAP: Final = 2
_PAPER: Final = (255, 255, 255)
_LOST: Final = (170, 30, 30)  # an image with NaN or infinity


def keep_grid(
    database: Database,
    store: ArrayStore,
    claim: Claim,
    images: NDArray[np.uint8],
    finite: NDArray[np.float32],
    *,
    on_event: Listener,
) -> str | None:
    """Store the picture of a chunk's first images and note whose it is.

    A picture is no reason to lose a chunk: whatever goes wrong is told, and that is all.

    Arguments:
        database: Where it is noted.
        store: Where it is stored.
        claim: The chunk.
        images: uint8 [N, C, H, W], its first images.
        finite: float32 [N or more], 0 where an image was not finite.
        on_event: Told why there is no picture.

    Returns:
        The file's digest, None where none was made.
    """
    if not len(images) or images.shape[1] not in (1, 3):
        return None  # latents that nothing decodes are no pictures
    series, schedule = digest(claim.series), digest(claim.schedule)
    said = {
        "skiptune:series": series,
        "skiptune:schedule": schedule,
        "skiptune:seeds": f"{claim.first_seed} to {claim.first_seed + len(images) - 1}",
    }
    try:
        data = grid_png(images, finite[: len(images)] > 0, said)
        key = store.write_bytes(data, PNG)
        ledger.put_grid(database, digest=key, bytes=len(data), series=series, schedule=schedule)
    except SkiptuneError as error:
        problem = error.problems[0]
        on_event(Notice(f"{claim.label}: no picture: {problem.where}: {problem.found}"))
    except (OSError, ValueError, MemoryError) as error:
        on_event(Notice(f"{claim.label}: no picture: {type(error).__name__}: {error}"))
    else:
        return key
    return None


def grid_png(images: NDArray[np.uint8], finite: NDArray[np.bool_], said: dict[str, str]) -> bytes:
    """Return a PNG of images in rows of `COLUMNS`; one that was not finite is a red cross.

    Arguments:
        images: uint8 [N, 1 or 3, H, W], N at least 1.
        finite: bool [N].
        said: Texts that the file carries, by key: equal pictures of different schedules are
            different files.
    """
    side = LONGEST_SIDE
    data = _png(images, finite, said, side)
    while len(data) > MOST_BYTES and side > 16:
        side //= 2
        data = _png(images, finite, said, side)
    return data


def _png(
    images: NDArray[np.uint8], finite: NDArray[np.bool_], said: dict[str, str], side: int
) -> bytes:
    tiles = [_tile(pixels, side) for pixels in images]
    width, height = tiles[0].size
    mode = tiles[0].mode if finite.all() else "RGB"
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    size = (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP)
    picture = Image.new(mode, size, _PAPER if mode == "RGB" else _PAPER[0])
    draw = ImageDraw.Draw(picture)
    for place, (tile, whole) in enumerate(zip(tiles, finite, strict=True)):
        left, top = place % columns * (width + _GAP), place // columns * (height + _GAP)
        if whole:
            picture.paste(tile, (left, top))
            continue
        right, bottom = left + width - 1, top + height - 1
        draw.rectangle((left, top, right, bottom), outline=_LOST)
        draw.line((left, top, right, bottom), fill=_LOST)
        draw.line((left, bottom, right, top), fill=_LOST)
    texts = PngImagePlugin.PngInfo()
    for key, text in said.items():
        texts.add_text(key, text)
    data = io.BytesIO()
    picture.save(data, format="PNG", pnginfo=texts)
    return data.getvalue()


def _tile(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    """Return an image whose longer side is about `side`, never more."""
    whole = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    image = Image.fromarray(whole)
    longest = max(image.size)
    if longest <= side:
        times = side // longest
        size = (image.width * times, image.height * times)
        return image.resize(size, Image.Resampling.NEAREST)
    return image.resize(
        (max(1, image.width * side // longest), max(1, image.height * side // longest)),
        Image.Resampling.LANCZOS,
    )
