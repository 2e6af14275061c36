"""The pair is the two pictures as they were kept, under one another."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skiptune.errors import StorageError
from skiptune.search.overview import Leader
from skiptune.search.sample_grid import grid_png
from skiptune.storage import ledger
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database, init_database
from skiptune.views.dashboard.pair import keep_pair
from tests.views.dashboard.test_figures import leader


@pytest.fixture
def database(tmp_path: Path) -> Any:
    with init_database(f"sqlite:///{tmp_path / 'pair.db'}") as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> ArrayStore:
    return ArrayStore(tmp_path / "artifacts")


def entered(database: Database) -> tuple[ledger.Study, list[ledger.Evaluation]]:
    study = ledger.create_study(database, name="cats", spec={}, meaning={})
    made = [
        ledger.add_evaluation(
            database,
            study.id,
            kind=kind,
            label=kind,
            block="search",
            series={"network": "n"},
            measure={"extractor": "e"},
            schedule={"terms": kind},
            first_seed=1_000_000,
            images=250,
            params={},
        )
        for kind in ("baseline", "proposal")
    ]
    return study, made


def kept(
    database: Database, store: ArrayStore, made: ledger.Evaluation, grey: int, side: int = 32
) -> Any:
    images = np.full((16, 3, side, side), grey, dtype=np.uint8)
    data = grid_png(images, np.ones(16, dtype=bool), {"schedule": made.schedule})
    digest = store.write_bytes(data, ".png")
    ledger.put_grid(
        database, digest=digest, bytes=len(data), series=made.series, schedule=made.schedule
    )
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), digest


def best() -> Leader:
    return leader(1)


def test_both_are_there_pixel_for_pixel(database: Database, store: ArrayStore) -> None:
    study, (base, tuned) = entered(database)
    under, _ = kept(database, store, base, 40)
    over, _ = kept(database, store, tuned, 200)
    digest = keep_pair(database, store, study.id, best())
    assert digest is not None
    assert keep_pair(database, store, study.id, best()) == digest
    pixels = np.asarray(Image.open(io.BytesIO(store.read_bytes(digest, ".png"))))
    height, width, _ = over.shape
    places = [
        (top, left) for picture in (over, under) for top, left in [found_at(pixels, picture)]
    ]
    assert places[0][1] == places[1][1]
    assert places[0][0] + height <= places[1][0]
    assert pixels.shape[1] < width + 20
    assert {one.digest for one in ledger.artifacts(database)} >= {digest}


def found_at(pixels: Any, picture: Any) -> tuple[int, int]:
    height, width, _ = picture.shape
    return next(
        (top, left)
        for top in range(pixels.shape[0] - height + 1)
        for left in range(pixels.shape[1] - width + 1)
        if np.array_equal(pixels[top : top + height, left : left + width], picture)
    )


def test_without_either_picture_there_is_none(database: Database, store: ArrayStore) -> None:
    study, made = entered(database)
    assert keep_pair(database, store, study.id, best()) is None
    kept(database, store, made[1], 1)
    assert keep_pair(database, store, study.id, best()) is None


@pytest.mark.parametrize("how", ["gone", "damaged", "of another size"])
def test_a_picture_that_cannot_be_used_is_refused(
    database: Database, store: ArrayStore, how: str
) -> None:
    study, (base, tuned) = entered(database)
    kept(database, store, base, 40)
    _, digest = kept(database, store, tuned, 200, side=20 if how == "of another size" else 32)
    if how == "gone":
        store.remove(digest, suffix=".png")
    elif how == "damaged":
        store.path(digest, suffix=".png").write_bytes(b"no picture")
    with pytest.raises(StorageError):
        keep_pair(database, store, study.id, best())


def test_two_studies_have_pairs_of_their_own(database: Database, store: ArrayStore) -> None:
    study, (base, tuned) = entered(database)
    kept(database, store, base, 40)
    kept(database, store, tuned, 200)
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    for one in (base, tuned):
        ledger.add_evaluation(
            database,
            other.id,
            kind=one.kind,
            label=one.label,
            block="search",
            series={"network": "n"},
            measure={"extractor": "e"},
            schedule=one.schedule_json,
            first_seed=1_000_000,
            images=250,
            params={},
        )
    first = keep_pair(database, store, study.id, best())
    second = keep_pair(database, store, other.id, best())
    assert first != second
    kinds = [one.kind for one in ledger.artifacts(database)]
    assert (kinds.count("grid"), kinds.count("pair")) == (2, 2)
