"""A result that is read from rows alone is the one that an open study tells."""

from __future__ import annotations

from typing import Any

import pytest

from skiptune.search.confirm import result_of
from skiptune.search.result import Result
from skiptune.search.stored_result import stored_result
from skiptune.search.tune import confirm, run
from tests.search import made_up
from tests.search.conftest import Tiny


@pytest.fixture(autouse=True)
def made_up_images(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up.replace(monkeypatch.setattr)


SPECS = {
    "controls and a constraint": {
        "confirm__controls": ["epsilon scale"],
        "objective__constraints": ["fd <= 2 x baseline"],
    },
    "two parts": {"space__kind": "linear", "search__evaluations": 3},
    "a searched window": {"space__window": "search", "search__evaluations": 3},
    "a knob": {"space__setting": {"epsilon_scale": [0.98, 1.04]}, "search__evaluations": 3},
    "a constraint that is violated": {"objective__constraints": ["fd <= 0.01 x baseline"]},
}


@pytest.mark.parametrize("changes", SPECS.values(), ids=SPECS.keys())
def test_it_is_what_the_open_study_tells(tiny: Tiny, changes: dict[str, Any]) -> None:
    study = tiny.open(**{"search__evaluations": 4, **changes})
    assert stored_result(study.database, "tiny") is None  # nothing is confirmed yet
    told = run(study)
    assert told is not None
    assert stored_result(study.database, "tiny") == told
    if told.tested:
        assert isinstance(confirm(study, number=2), Result)
        assert stored_result(study.database, "tiny") == result_of(study, 2)


def test_a_search_without_a_candidate_has_a_result(tiny: Tiny) -> None:
    # The made-up images are best at larger scales: smaller ones are worse, all of them.
    study = tiny.open(space__low=0.5, space__high=0.8, search__evaluations=3)
    told = run(study)
    assert told is not None and not told.tested
    assert stored_result(study.database, "tiny") == told
