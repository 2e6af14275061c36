"""The picture that a worker keeps: the first images as they are, small, and never in the way."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from skiptune.errors import DiskFullError, UnavailableError
from skiptune.sampling.images import sample
from skiptune.sampling.schedule import Schedule
from skiptune.search import sample_grid
from skiptune.search.chunks import sampled
from skiptune.search.events import Event, Notice
from skiptune.search.sample_grid import (
    COLUMNS,
    GRID_IMAGES,
    LONGEST_SIDE,
    MOST_BYTES,
    grid_png,
    keep_grid,
)
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.search.worker import Limits
from skiptune.storage import leases, ledger
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.leases import Claim
from tests.search.conftest import Tiny, crew_member

Images = NDArray[np.uint8]


def noise(*shape: int) -> Images:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def opened(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def whole(count: int) -> NDArray[np.bool_]:
    return np.ones(count, dtype=bool)


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (3, 64), (3, 100), (3, 128)])
def test_small_images_are_enlarged_in_whole_steps_and_nothing_is_smoothed(
    channels: int, side: int
) -> None:
    images = noise(GRID_IMAGES, channels, side, side)
    pixels = opened(grid_png(images, whole(GRID_IMAGES), {}))
    times = LONGEST_SIDE // side
    if len(grid_png(images, whole(GRID_IMAGES), {})) > MOST_BYTES:
        pytest.fail("a picture of this size is too large")
    step = side * times + 2
    if pixels.shape[1] < COLUMNS * step - 2:
        # Noise does not compress: the picture was made at half the size.
        assert side > LONGEST_SIDE // 2
        return
    for place, image in enumerate(images):
        left, top = place % COLUMNS * step, place // COLUMNS * step
        tile = pixels[top : top + side * times, left : left + side * times]
        expected = np.broadcast_to(image, (3, side, side)) if channels == 1 else image
        enlarged = expected.repeat(times, axis=1).repeat(times, axis=2)
        np.testing.assert_array_equal(tile, enlarged.transpose(1, 2, 0))


@pytest.mark.parametrize("shape", [(3, 256, 256), (3, 1024, 1024), (1, 600, 300)])
def test_large_images_are_shrunk_and_the_picture_is_small(shape: tuple[int, ...]) -> None:
    data = grid_png(noise(GRID_IMAGES, *shape), whole(GRID_IMAGES), {})
    assert len(data) <= MOST_BYTES
    height, width, _ = opened(data).shape
    assert width <= COLUMNS * (LONGEST_SIDE + 2)
    assert height <= 2 * (LONGEST_SIDE + 2)


def test_what_is_not_finite_is_a_red_cross() -> None:
    images = np.zeros((3, 1, 8, 8), dtype=np.uint8)
    finite = np.array([True, False, True])
    pixels = opened(grid_png(images, finite, {}))
    side = LONGEST_SIDE
    first, second = pixels[:side, :side], pixels[:side, side + 2 : 2 * side + 2]
    assert (first == 0).all()
    assert (second[0, 0] == (170, 30, 30)).all()
    assert (second[side // 2, side // 2] == (170, 30, 30)).all()
    assert (second[2, side // 2] == 255).all()


def test_equal_pictures_of_different_schedules_are_different_files() -> None:
    images = np.zeros((2, 1, 8, 8), dtype=np.uint8)
    one, other = (grid_png(images, whole(2), {"skiptune:schedule": key}) for key in "ab")
    assert one != other
    assert (opened(one) == opened(other)).all()
    assert Image.open(io.BytesIO(one)).text == {"skiptune:schedule": "a"}  # type: ignore[attr-defined]


def silence_broken(event: Event) -> None:
    pytest.fail(f"nothing had to be said, found {event}")


def claimed(study: OpenStudy) -> Claim:
    study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=250)
    claim = leases.claim_chunk(study.database, study.id, worker="a:0:1:1", seconds=60.0)
    assert claim is not None
    return claim


def test_a_worker_keeps_the_images_of_the_first_seeds(tiny: Tiny) -> None:
    """Real images: those of the picture are those that the seeds make, in every place."""
    study = tiny.open()
    assert crew_member(study, "a", limits=Limits(trials=1)).run() == "limit reached"
    evaluations = ledger.evaluations(study.database, study.id)
    found = ledger.grids(study.database, evaluations)
    base = next(e for e in evaluations if e.kind == "baseline")
    scored = {s.evaluation_id for s in ledger.scores(study.database, study.id)}
    assert {base.id} < scored <= set(found)
    data = study.arrays.read_bytes(found[base.id], ".png")
    (batch,) = sample(
        study.checkpoint.network,
        study.setting,
        range(SEARCH_SEED, SEARCH_SEED + study.spec.microbatch),
        microbatch=study.spec.microbatch,
    )
    said = Image.open(io.BytesIO(data)).text  # type: ignore[attr-defined]
    assert said == {
        "skiptune:series": base.series,
        "skiptune:schedule": base.schedule,
        "skiptune:seeds": f"{SEARCH_SEED} to {SEARCH_SEED + GRID_IMAGES - 1}",
    }
    images = batch.images[:GRID_IMAGES].numpy()
    assert data == grid_png(images, batch.finite[:GRID_IMAGES].numpy(), said)


def test_other_seeds_have_no_picture(tiny: Tiny) -> None:
    study = tiny.open()
    claim = claimed(study)
    schedule = ledger.evaluations(study.database, study.id)[0]
    given = Schedule.from_json(schedule.schedule_json)
    first = sampled(study, given, study.setting, range(claim.first_seed, claim.first_seed + 20))
    assert first.images is not None and len(first.images) == GRID_IMAGES
    few = sampled(study, given, study.setting, range(claim.first_seed, claim.first_seed + 3))
    assert few.images is not None and len(few.images) == 3
    seeds = range(claim.first_seed + 250, claim.first_seed + 270)
    assert sampled(study, given, study.setting, seeds).images is None


def test_the_same_picture_is_noted_once(tiny: Tiny) -> None:
    study = tiny.open()
    claim, images = claimed(study), noise(4, 3, 8, 8)
    finite = np.ones(4, dtype=np.float32)
    keys = {
        keep_grid(study.database, study.arrays, claim, images, finite, on_event=silence_broken)
        for _ in range(2)
    }
    evaluations = ledger.evaluations(study.database, study.id)
    assert set(ledger.grids(study.database, evaluations).values()) == keys
    assert len(keys) == 1


@pytest.mark.parametrize(
    "error",
    [
        DiskFullError("store", expected="space", found="none", hint="-"),
        UnavailableError("store", expected="an answer", found="none", hint="-"),
        OSError("broken"),
        ValueError("odd"),
        MemoryError(),
    ],
)
def test_a_picture_that_cannot_be_written_is_said_and_no_more(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    study = tiny.open()
    claim = claimed(study)

    def refuse(self: ArrayStore, data: bytes, suffix: str) -> str:
        raise error

    monkeypatch.setattr(ArrayStore, "write_bytes", refuse)
    events: list[Event] = []
    made = keep_grid(
        study.database,
        study.arrays,
        claim,
        noise(4, 3, 8, 8),
        np.ones(4, dtype=np.float32),
        on_event=events.append,
    )
    assert made is None
    (notice,) = events
    assert isinstance(notice, Notice)
    assert "no picture" in notice.text


def test_a_chunk_is_committed_without_its_picture(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny.open()

    def refuse(*_: Any) -> bytes:
        raise OSError("the picture is cursed")

    monkeypatch.setattr(sample_grid, "grid_png", refuse)
    events: list[Event] = []
    member = crew_member(study, "a", limits=Limits(images=250), on_event=events.append)
    assert member.run() == "limit reached"
    assert member.images == 250
    assert any(isinstance(e, Notice) and "cursed" in e.text for e in events)
    assert [a for a in ledger.artifacts(study.database) if a.kind == "grid"] == []


def test_latents_that_nothing_decodes_have_no_picture(tiny: Tiny) -> None:
    study = tiny.open()
    made = keep_grid(
        study.database,
        study.arrays,
        claimed(study),
        noise(4, 4, 8, 8),
        np.ones(4, dtype=np.float32),
        on_event=silence_broken,
    )
    assert made is None
