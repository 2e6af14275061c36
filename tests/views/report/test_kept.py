"""Kept pictures: cut into their images again, and refused where they are none."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from skiptune.errors import StorageError
from skiptune.sampling.schedule import Schedule
from skiptune.search.artifacts import bind_store
from skiptune.storage import ledger
from skiptune.storage.database import Database, init_database
from skiptune.views.report.kept import Kept, kept
from tests.views.report.findings import SCHEDULE

SERIES = {"network": "n", "steps": 6}


def grid(images: NDArray[np.uint8], seeds: str) -> bytes:
    """Lay images out as workers do: rows of 8, 2 pixels apart, and say their seeds."""
    count, channels, height, width = images.shape
    columns = min(8, count)
    rows = -(-count // columns)
    size = (columns * (width + 2) - 2, rows * (height + 2) - 2)
    picture = Image.new("L" if channels == 1 else "RGB", size)
    for place, pixels in enumerate(images):
        tile = pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
        place_at = (place % columns * (width + 2), place // columns * (height + 2))
        picture.paste(Image.fromarray(tile), place_at)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("skiptune:seeds", seeds)
    data = io.BytesIO()
    picture.save(data, format="PNG", pnginfo=texts)
    return data.getvalue()


class Studied:
    """A database with a study of a baseline and a schedule, and a store."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder = database, folder
        self.study = ledger.create_study(database, name="s", spec={}, meaning={})
        self.store = bind_store(database, folder)
        for kind, schedule in (("baseline", Schedule.baseline()), ("proposal", SCHEDULE)):
            ledger.add_evaluation(
                database, self.study.id, kind=kind, label=kind, block="search", series=SERIES,  # type: ignore[arg-type]
                measure={"extractor": "e"}, schedule=schedule.to_json(), first_seed=1_000_000,
                images=250, params={},
            )  # fmt: skip

    def note(self, schedule: Schedule, data: bytes) -> str:
        one = ledger.find_evaluation(
            self.database, self.study.id, block="search", schedule=schedule.digest
        )
        assert one is not None
        digest = self.store.write_bytes(data, ".png")
        name = f"{one.series}/{one.schedule}.png"
        ledger.put_artifact(self.database, digest=digest, kind="grid", bytes=len(data), name=name)
        return digest

    def kept(self, schedule: Schedule = SCHEDULE) -> Kept | None:
        return kept(self.database, self.study.id, schedule, artifacts=self.folder)


@pytest.fixture
def studied(database_url: str, tmp_path: Path) -> Studied:
    return Studied(init_database(database_url), tmp_path / "store")


def made(seed: int, count: int = 16, channels: int = 1) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, channels, 8, 6), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 8, 16, 11])
def test_images_come_back_as_they_were(studied: Studied, count: int, channels: int) -> None:
    before, after = made(0, count, channels), made(1, count, channels)
    assert studied.kept() is None
    seeds = f"1000000 to {1_000_000 + count - 1}"
    studied.note(Schedule.baseline(), grid(before, seeds))
    assert studied.kept() is None  # of the schedule nothing is noted
    studied.note(SCHEDULE, grid(after, seeds))
    found = studied.kept()
    assert found is not None
    assert found.seeds == range(1_000_000, 1_000_000 + count)
    np.testing.assert_array_equal(found.before, before)
    np.testing.assert_array_equal(found.after, after)
    assert studied.kept(Schedule.uniform({"8x8_block0": 1.5})) is None  # never evaluated


def test_other_seeds_are_no_pair(studied: Studied) -> None:
    studied.note(Schedule.baseline(), grid(made(0), "1000000 to 1000015"))
    studied.note(SCHEDULE, grid(made(1), "2000000 to 2000015"))
    assert studied.kept() is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no picture", "cannot identify image file"),
        (grid(made(0), "1000000 to 1000015")[:200], "truncated"),
        (grid(made(0), "many"), "seeds 'many'"),
        (grid(made(0), "5 to 4"), "seeds '5 to 4'"),
        (grid(made(0), "1000000 to 1000016"), "62 x 18 pixels for 17 images"),
    ],
    ids=["bytes", "truncated", "no seeds", "backwards", "another count"],
)
def test_what_is_no_such_picture_is_refused(studied: Studied, data: bytes, words: str) -> None:
    studied.note(Schedule.baseline(), data)
    with pytest.raises(StorageError, match="a PNG of images in rows of 8") as refused:
        studied.kept()
    assert words in refused.value.problems[0].found


def test_of_two_pictures_the_one_that_the_dashboard_shows(studied: Studied) -> None:
    """Two devices that round otherwise have kept two."""
    seeds = "1000000 to 1000015"
    studied.note(Schedule.baseline(), grid(made(0), seeds))
    for seed in (1, 2):
        studied.note(SCHEDULE, grid(made(seed), seeds))
        time.sleep(0.002)
    found = studied.kept()
    assert found is not None
    np.testing.assert_array_equal(found.after, made(1))


def test_a_file_that_is_lost_is_told(studied: Studied) -> None:
    digest = studied.note(Schedule.baseline(), grid(made(0), "1000000 to 1000015"))
    studied.store.path(digest, suffix=".png").unlink()
    studied.note(SCHEDULE, grid(made(1), "1000000 to 1000015"))
    with pytest.raises(StorageError, match="No such file"):
        studied.kept()
