"""The best schedule's images beside the untouched network's, on the same seeds."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from PIL import Image, PngImagePlugin

from skiptune.errors import StorageError
from skiptune.search.overview import Leader
from skiptune.storage import ledger
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.pictures import PNG
from skiptune.views import numbers
from skiptune.views.picture import Row, grid

__all__ = ["PAIR_NAME", "caption", "keep_pair"]

PAIR_NAME: Final = "best-and-untouched.png"


def keep_pair(database: Database, store: ArrayStore, study_id: str, best: Leader) -> str | None:
    """Store the picture of the best schedule and the baseline, and forget the one before.

    Arguments:
        database: Where the study lives.
        store: Where the pictures are.
        study_id: The study.
        best: Its best schedule.

    Returns:
        The file's digest; None where either picture was never made.

    Raises:
        StorageError: A picture that was made is missing or damaged, or the store cannot be read
            or written.
    """
    search = [
        one
        for kind in ("baseline", "proposal")
        for one in ledger.evaluations(database, study_id, kind=kind, block=SEARCH_BLOCK)
        if one.number == best.number or one.kind == "baseline"
    ]
    found = ledger.grids(database, search)
    if len(search) != 2 or len(found) != 2:
        return None
    untouched, tuned = (found[one.id] for one in search)
    data = _png(
        [
            (caption(best), store.read_bytes(tuned, PNG)),
            ("untouched network, same seeds", store.read_bytes(untouched, PNG)),
        ],
        said=study_id,
        place=store.place(tuned, suffix=PNG),
    )
    digest = store.write_bytes(data, PNG)
    for former in ledger.put_pair(database, digest=digest, bytes=len(data), study_id=study_id):
        store.remove(former, suffix=PNG)
    return digest


def caption(best: Leader) -> str:
    """Return which schedule is the best one, and what is known of its gain."""
    gain = best.measured.gain(best.baseline.value)
    ends = best.measured.gain_interval(best.baseline.value)
    text = f"best: {best.measured.label}"
    if gain is None or ends is None:
        return text
    word = "confirmed" if best.confirmed else "not confirmed"
    return f"{text}, gain {numbers.gain(gain, *ends)} in the search, {word}"


def _png(pictures: list[tuple[str, bytes]], *, said: str, place: str) -> bytes:
    """Return the pictures under one another.

    Raises:
        StorageError: They cannot be put together.
    """
    try:
        rows = []
        for caption, data in pictures:
            with Image.open(io.BytesIO(data)) as image:
                pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            rows.append(Row(caption, pixels[np.newaxis]))
        picture = grid(rows, magnify=1)
    except (OSError, ValueError) as error:
        raise StorageError(
            place,
            expected="two pictures of the same size",
            found=str(error),
            hint="nothing to do: the dashboard goes on without the pair",
        ) from error
    texts = PngImagePlugin.PngInfo()
    # Two studies that share both schedules are shown files of their own.
    texts.add_text("skiptune:study", said)
    out = io.BytesIO()
    picture.save(out, format="PNG", pnginfo=texts)
    return out.getvalue()
