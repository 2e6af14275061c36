"""Who proposes schedules where the spec leaves it to us."""

from __future__ import annotations

from typing import Any

import pytest

from skiptune.search.study import SEARCH
from skiptune.storage import ledger
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member

FEW = 5  # proposals: less than one and a half for each of the tiny network's four scales


@pytest.mark.parametrize(
    ("changes", "sampler"),
    [
        # Too few for a model of all scales.
        ({"search__evaluations": FEW}, "descent"),
        ({"search__images": 500 + FEW * 250, "search__rungs": [250, 500]}, "descent"),
        ({"search__evaluations": FEW + 1}, "moments"),
        ({"search__images": 500 + (FEW + 1) * 250, "search__rungs": [250, 500]}, "moments"),
        ({"objective__metric": "teacher_loss"}, "descent"),
        # One block of seeds has no error.
        ({"search__rungs": [250], "search__evaluations": FEW}, "moments"),
        ({"space__window": "search"}, "tpe"),
        ({"objective__metric": ["fd", "teacher_loss"]}, "tpe"),
        ({"search__sampler": "random"}, "random"),
    ],
    ids=str,
)
def test_the_best_sampler_that_the_study_can_have(
    tiny: Tiny, changes: dict[str, Any], sampler: str
) -> None:
    study = tiny.open(**({"search__sampler": "auto"} | changes))
    assert study.sampler == sampler


def test_a_spec_without_a_search_is_searched_by_the_best_sampler(tiny: Tiny) -> None:
    assert tiny.spec(search__sampler="auto").search.sampler == "auto"
    plain = tiny.spec().to_json()
    del plain["search"]["sampler"]
    assert type(tiny.spec()).from_json(plain).search.sampler == "auto"


def test_a_descent_that_has_arrived_hands_over_to_the_model(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a clear slope there is no step downhill, and the model is asked at once."""
    monkeypatch.setattr("skiptune.search.descent.shrunk", lambda slopes, errors: slopes * 0)
    asked = []

    def proposal(self: Any, *_: Any) -> Any:
        asked.append(self)
        return [0.01 * len(asked)] * len(self._ranges)

    monkeypatch.setattr("skiptune.search.surrogate.MomentSampler._proposal", proposal)
    study = tiny.open(search__sampler="auto", search__evaluations=2)
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    made = ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
    assert len(made) == len(asked) == 2
    # The model learns from what the descent saw; it makes no design of its own.
    assert [one._startup for one in asked] == [0, 0]
