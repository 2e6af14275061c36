"""Resuming: a rung that schedules have entered stays what it is, others may be added behind."""

from __future__ import annotations

import pytest

from skiptune.errors import StudyChangedError
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.storage import ledger
from tests.search.conftest import Tiny


def proposed(study: OpenStudy) -> ledger.Evaluation:
    params = dict.fromkeys(study.space.scale_names, 0.9)
    return study.evaluate(
        study.space.schedule(params),
        kind="proposal",
        label="proposal 1",
        block=SEARCH,
        first_seed=SEARCH_SEED,
        images=study.rungs[0],
        params=params,
    )


def test_a_rung_that_a_schedule_has_entered_stays(tiny: Tiny) -> None:
    entered = proposed(tiny.open(search__rungs=[250]))
    study = tiny.open(search__rungs=[250, 500, 1000])
    # The baseline goes on first, and alone it binds nobody.
    baseline = study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=250)
    ledger.promote(study.database, baseline.id, 1000)
    for rungs in ([250, 750], [250], [250, 500, 1000]):
        assert tiny.open(search__rungs=rungs).rungs == tuple(rungs)
    ledger.promote(study.database, entered.id, 500)
    for rungs in ([250, 500], [250, 500, 750], [250, 500, 1000]):
        assert tiny.open(search__rungs=rungs).rungs == tuple(rungs)
    for rungs in ([250], [250, 750], [250, 1000], [250, 250 * 3, 1000]):
        with pytest.raises(StudyChangedError) as caught:
            tiny.open(search__rungs=rungs)
        (problem,) = caught.value.problems
        assert problem.where.endswith("search.rungs")
        assert (problem.expected, problem.found) == (
            "[250, 500] (stored)",
            f"{rungs} (given)",
        )
    assert ledger.require_study(study.database, "tiny").spec["search"]["rungs"] == [250, 500, 1000]


def test_no_rung_is_added_behind_one_that_was_no_screen(tiny: Tiny) -> None:
    tiny.open(search__rungs=[250], objective__projection=8)
    with pytest.raises(StudyChangedError, match=r"search\.rungs"):
        tiny.open(search__rungs=[250, 500], objective__projection=8)
    other = {"study": "other", "objective__projection": 8}
    for rungs in ([250, 500], [250, 500, 750]):
        assert tiny.open(search__rungs=rungs, **other).rungs == tuple(rungs)
