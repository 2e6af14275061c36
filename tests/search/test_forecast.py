"""What a study will take and can prove: part by part, and from a pilot that leaves nothing."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from skiptune.errors import NetworkError, SpecError, StudyChangedError
from skiptune.objectives.paired import paired_difference
from skiptune.objectives.reference import load_reference
from skiptune.sampling.schedule import Schedule
from skiptune.search import chunks
from skiptune.search.chunks import Sampled
from skiptune.search.forecast import confirm_parts, forecast
from skiptune.search.pilot import OFF, fewest_images, pilot_error, pilot_params
from skiptune.search.plan import Cost, confirm_cost, search_cost
from skiptune.search.study import SEARCH_SEED, OpenStudy
from skiptune.search.tune import run
from skiptune.search.worker import Worker
from tests.search import made_up
from tests.search.conftest import Tiny


@pytest.fixture(autouse=True)
def made_up_images(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up.replace(monkeypatch.setattr)


def test_parts_are_what_search_and_confirm_cost(tiny: Tiny) -> None:
    spec = tiny.spec(confirm__controls=["epsilon scale"], search__promote=0.34)
    found = forecast(spec, storage=tiny.url, workers=4)
    assert found is not None
    parts = {part.name: part for part in found.parts}
    assert [*parts] == ["baseline", "rung 250", "rung 500", "confirm A", "confirm B", "controls"]
    assert parts["rung 250"].cost == Cost(6 * 250, 3 * 6 * 250)
    assert [parts[name].schedules for name in ("rung 250", "rung 500")] == [6, 2]
    assert parts["confirm B"].cost == Cost(500, 1500)
    assert found.cost == search_cost(spec) + confirm_cost(spec)
    assert found.seconds == pytest.approx(sum(part.seconds for part in found.parts))
    assert found.wall_seconds == found.seconds / 4
    assert found.error is None and found.smallest_gain is None and found.images_for(0.1) is None
    assert found.level == 0.025


def test_images_that_are_compared_with_count_with_the_confirm(tiny: Tiny) -> None:
    spec = tiny.spec(objective__metric="teacher_loss", objective__teacher={"steps": 9})
    parts = confirm_parts(spec)
    # Baseline and chosen one at 3 evaluations, and the teacher's images at 9 steps of heun.
    assert parts["confirm B"] == Cost(750, 500 * 3 + 250 * 17)
    assert sum(parts.values(), Cost()) == confirm_cost(spec)


def test_a_finished_study_tells_its_errors_and_the_next_level(tiny: Tiny) -> None:
    study = tiny.open()
    result = run(study)
    assert result is not None and result.winner is not None
    found = forecast(tiny.spec(confirm__images=1000), storage=tiny.url)
    assert found is not None and found.error is not None
    assert (found.confirm, found.level) == (2, 0.0125)
    assert found.stored == result.images
    assert found.error.source == "study tiny"
    normal = NormalDist()
    error = found.error.deviation / math.sqrt(1000) / found.error.baseline
    threshold = max(normal.inv_cdf(1 - 0.0125 / 2) * error, 0.01)
    assert found.smallest_gain == pytest.approx(threshold + normal.inv_cdf(0.9) * error)
    assert found.to_json()["smallest_gain"] == found.smallest_gain


def test_a_study_that_means_something_else_is_refused(tiny: Tiny) -> None:
    tiny.open()
    with pytest.raises(StudyChangedError, match=r"setting\.steps"):
        forecast(tiny.spec(setting__steps=4), storage=tiny.url)


def test_a_pilot_measures_what_the_study_would_and_leaves_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    # One scale for all: what moves the made-up images is the mean of the logarithms.
    found = pilot_error(tiny.spec(space__kind="uniform"), 500)
    assert sorted(tmp_path.rglob("*")) == before
    assert found is not None and found.schedules == 1

    study = tiny.open(space__kind="uniform")
    params = pilot_params(study.space)
    seeds = range(SEARCH_SEED, SEARCH_SEED + 500)
    features = [
        np.concatenate(
            [
                made_up.sampled(study, study.space.schedule(each), study.setting, some).arrays[
                    "features"
                ]
                for some in (seeds[:250], seeds[250:])
            ]
        )
        for each in (params, study.space.baseline_params())
    ]
    assert study.reference is not None
    reference = load_reference(str(tiny.folder / "reference.npz"), extractor=study.extractor)
    expected = paired_difference(features[0], features[1], reference)
    assert found.deviation == pytest.approx(expected.standard_error * math.sqrt(500), rel=1e-6)


def test_scales_of_a_pilot_go_up_and_down_within_the_range(tiny: Tiny) -> None:
    space = tiny.open().space
    logs = [math.log(value) for value in pilot_params(space).values()]
    assert logs == pytest.approx([OFF, -OFF, OFF, -OFF])
    narrow = tiny.open(study="narrow", space__low=0.95).space
    assert min(pilot_params(narrow).values()) == 0.95


@pytest.mark.parametrize("images", [250, 600])
def test_a_pilot_has_whole_chunks_and_no_fewer_than_the_first_rung(
    tiny: Tiny, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "run", lambda self: pytest.fail("an image was sampled"))
    with pytest.raises(SpecError, match=r"--pilot 500"):
        pilot_error(tiny.spec(search__rungs=[500, 1000]), images)


def test_a_screen_is_no_pilot(tiny: Tiny) -> None:
    assert fewest_images(tiny.spec(objective__projection=8)) == 500
    assert fewest_images(tiny.spec()) == 250


def test_a_pilot_whose_schedule_diverges_says_so(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampled(study: OpenStudy, schedule: Schedule, *rest: Any, **named: Any) -> Sampled:
        made = made_up.sampled(study, schedule, *rest, **named)
        if not schedule.is_baseline:
            made.arrays["finite"][:] = 0
        return made

    monkeypatch.setattr(chunks, "sampled", sampled)
    with pytest.raises(NetworkError, match="pilot"):
        pilot_error(tiny.spec(), 250)
