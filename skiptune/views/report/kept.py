"""Pictures that workers have kept: the search's first seeds of a schedule, cut into its images.

A kept picture is an artifact of kind ``grid``, named by the series and the schedule of its images:
a PNG of rows of images with a gap between them, whose text says which seeds they are.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skiptune.errors import StorageError
from skiptune.sampling.schedule import Schedule
from skiptune.search.artifacts import required_store
from skiptune.storage import ledger
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.pictures import PNG

__all__ = ["Kept", "kept"]

COLUMNS: Final = 8
GAP: Final = 2  # pixels between two images
SEEDS: Final = "skiptune:seeds"  # the text of the file that tells them
MOST_PIXELS: Final = 4096 * 4096


@dataclass(frozen=True)
class Kept:
    """The same seeds of the untouched network and of a schedule.

    Arguments:
        seeds: One per image.
        before: uint8 [N, C, H, W], C 1 or 3, as they were kept: perhaps enlarged or shrunk.
        after: The same of the schedule.
    """

    seeds: range
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


def kept(
    database: Database, study_id: str, schedule: Schedule, *, artifacts: str | Path | None
) -> Kept | None:
    """Return what workers have kept of a schedule and of the untouched network.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        schedule: One that its search has evaluated.
        artifacts: Where stored files are; by default as for `artifacts_location`.

    Returns:
        None where nothing is noted of one of the two, or they do not show the same seeds.

    Raises:
        StorageError: A file that is noted is missing, damaged, or no such picture.
    """
    found = []
    for one in (Schedule.baseline(), schedule):
        evaluation = ledger.find_evaluation(
            database, study_id, block=SEARCH_BLOCK, schedule=one.digest
        )
        if evaluation is None:
            return None
        digest = ledger.grids(database, [evaluation]).get(evaluation.id)
        if digest is None:
            return None
        store = required_store(database, artifacts)
        found.append(_images(store.read_bytes(digest, PNG), store.place(digest, suffix=PNG)))
    (seeds, before), (others, after) = found
    return Kept(seeds, before, after) if seeds == others and before.shape == after.shape else None


def _images(data: bytes, where: str) -> tuple[range, NDArray[np.uint8]]:
    """Return the seeds and the images of a kept picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=["PNG"])
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels")
            text = str(getattr(picture, "text", {}).get(SEEDS, ""))
            pixels = np.asarray(picture.convert("L" if picture.mode == "L" else "RGB"))
        seeds = _seeds(text)
        return seeds, _cut(pixels, len(seeds))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning) as error:
        raise StorageError(
            where,
            expected=f"a PNG of images in rows of {COLUMNS} that tells their seeds",
            found=str(error),
            hint="leave pictures out: --pictures none",
        ) from None


def _seeds(text: str) -> range:
    match = re.fullmatch(r"(\d{1,12}) to (\d{1,12})", text)
    first, last = (int(match[1]), int(match[2])) if match else (0, -1)
    if not 0 <= last - first < 1000:
        raise ValueError(f"seeds {text!r}")
    return range(first, last + 1)


def _cut(pixels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Return the images of a grid, uint8 [N, C, H, W]."""
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    height, width = ((size + GAP) / many - GAP for size, many in zip(
        pixels.shape, (rows, columns), strict=False))  # fmt: skip
    if height != int(height) or width != int(width) or min(height, width) < 1:
        raise ValueError(f"{pixels.shape[1]} x {pixels.shape[0]} pixels for {count} images")
    tall, wide = int(height), int(width)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    tiles = [
        pixels[top : top + tall, left : left + wide].transpose(2, 0, 1)
        for top in range(0, rows * (tall + GAP), tall + GAP)
        for left in range(0, columns * (wide + GAP), wide + GAP)
    ]
    return np.stack(tiles[:count])
