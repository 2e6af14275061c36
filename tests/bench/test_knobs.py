"""The table of knobs: every search is a study that can be, with as many images as the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import fresh_both
from bench.fresh_both import PIECE, Both
from bench.knobs import CASES, DESCENT, RANGES, Case, Search, markdown, spec_of
from skiptune.objectives.names import FASHION_CNN
from skiptune.objectives.paired import difference_of, scored
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search.study import check_study

EULER = Setting(solver="euler", steps=1)
SEARCHES = [(case, search) for case in CASES for search in case.searches]


@pytest.mark.parametrize(("case", "search"), SEARCHES, ids=lambda one: getattr(one, "name", ""))
def test_every_search_is_a_study_that_can_be(case: Case, search: Search) -> None:
    spec = spec_of(search, case.setting, 12_000)
    assert spec.search.sampler == search.sampler
    _, _, space = check_study(spec)
    assert {f"setting/{name}" for name in search.knobs} == {knob.param for knob in space.knobs}
    for name in search.knobs:
        low, high = RANGES[name]
        assert low < case.setting.knob(name) < high


def test_images_are_shared_and_slopes_are_paid_for() -> None:
    plain = spec_of(Search("linear"), EULER, 12_000)
    assert plain.search.evaluations == 23  # and the baseline
    # Slopes of two chunks, 50 images each at four evaluations for each one of sampling.
    assert spec_of(DESCENT, EULER, 12_000).search.evaluations == (12_000 - 500) // (500 + 400)
    assert spec_of(DESCENT, EULER, 100).search.evaluations == 1
    # Another budget, range or setting is another study; the same is gone on with.
    names = {
        spec_of(*given).study
        for given in (
            (DESCENT, EULER, 12_000),
            (DESCENT, EULER, 6_000),
            (DESCENT, Setting(), 12_000),
            (Search("linear"), EULER, 12_000),
        )
    }
    assert len(names) == 4 and spec_of(DESCENT, EULER, 12_000).study in names


def test_gains_are_paired_differences_and_nothing_is_sampled_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Both.open(tmp_path, PIECE)
    schedule = Schedule.uniform({both.checkpoint.skips[0].address: 0.9})
    base, ours = both.scored(Schedule.baseline(), EULER), both.scored(schedule, EULER)
    found = both.gains(ours, base)
    rows = []
    for path in sorted(tmp_path.glob("*.npz")):
        with np.load(path) as file:
            rows.append(file[FASHION_CNN])
    reference = both.references[FASHION_CNN]
    one, other = (scored(row, reference, least_per_feature=3) for row in rows)
    expected = abs(difference_of(one, other).value)
    assert abs(found[FASHION_CNN].difference.value) == pytest.approx(expected, rel=1e-9)
    gain = found[FASHION_CNN]
    unit = base[FASHION_CNN].corrected.value
    assert gain.gain == pytest.approx(-100 * gain.difference.value / unit)
    assert gain.interval[0] < gain.gain < gain.interval[1]

    def broken(*_: object, **__: object) -> None:
        raise AssertionError("sampled again")

    monkeypatch.setattr(fresh_both, "sample", broken)
    assert both.gains(both.scored(schedule, EULER), base) == found
    with pytest.raises(ValueError, match="multiples of 250"):
        Both.open(tmp_path, 300)


def test_the_table_is_one_line_for_each_case() -> None:
    gain = {
        "value": {"value": 8.0, "standard_error": 0.2},
        "difference": {"value": -2.0, "standard_error": 0.1},
        "gain": 20.0,
        "interval": [18.0, 22.0],
    }
    row = {
        "name": "skips",
        "searches": [{"images": 6000.0}, {"images": 5000.0}],
        "knobs": {"epsilon_scale": 1.015},
        "schedule": {"terms": [{"scale": 0.9}, {"scale": 1.2}]},
        "nfe": 6,
        "gains": {"a": gain, "b": gain},
    }
    lines = markdown([row]).splitlines()
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1
    assert "epsilon_scale 1.01, scales 0.90 to 1.20 | 11,000 | 6 " in lines[2]
    assert lines[2].count("+20.0 % [+18.0, +22.0]") == 2
