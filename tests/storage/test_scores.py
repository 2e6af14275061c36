"""Scores: the first of a key stays, and a rung is done with its score."""

from __future__ import annotations

from typing import Any

import pytest

from skiptune.errors import StorageError
from skiptune.storage import ledger
from skiptune.storage.database import Database
from tests.storage.conftest import Add, Work

VALUES: dict[str, Any] = {
    "metric": "FD(e)-500-corrected",
    "reference": "r",
    "images": 500,
    "value": 0.1 + 0.2,
    "standard_error": 1e-300,
    "raw": 4.0,
    "difference": -0.25,
    "difference_error": 0.125,
    "baseline_images": 500,
}


def test_a_score_completes_its_rung_and_the_evaluation(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    made = add(0.8)
    work()
    score = ledger.put_score(database, made.id, level=0, **VALUES)
    assert {key: getattr(score, key) for key in VALUES} == VALUES
    assert ledger.ready_rungs(database, study.id) == ()
    [rung] = ledger.rungs(database, study.id, evaluation_id=made.id)
    assert rung.state == "complete" and rung.completed is not None
    ended = ledger.evaluation(database, made.id)
    assert ended.state == "complete" and ended.finished is not None
    assert ledger.scores(database, study.id) == (score,)


def test_the_first_score_stays(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    made = add(0.8)
    work()
    score = ledger.put_score(database, made.id, level=0, **VALUES)
    rungs = ledger.rungs(database, study.id)
    again = ledger.put_score(database, made.id, level=0, **{**VALUES, "value": 9.0})
    assert again == score
    assert ledger.rungs(database, study.id) == rungs
    other = ledger.put_score(database, made.id, level=0, **{**VALUES, "reference": "s"})
    assert ledger.scores(database, study.id, evaluation_id=made.id) == (score, other)


def test_an_evaluation_with_an_open_rung_runs_on(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    made = add(0.8)
    work()
    ledger.promote(database, made.id, 1000)
    ledger.put_score(database, made.id, level=0, **VALUES)
    assert ledger.evaluation(database, made.id).state == "running"
    assert len(work()) == 2


def test_a_score_does_not_undo_an_end(database: Database, add: Add, work: Work) -> None:
    made = add(0.8)
    work()
    ended = ledger.finish_evaluation(database, made.id, "diverged", "NaN")
    ledger.put_score(database, made.id, level=0, **VALUES)
    assert ledger.evaluation(database, made.id) == ended


def test_the_baselines_score_is_that_of_its_first_full_size(
    database: Database, study: ledger.Study, add: Add
) -> None:
    assert ledger.baseline_score(database, study.id) is None
    confirm = add(1.0, block="c/A", first_seed=2_100_000)
    ledger.put_score(database, confirm.id, level=0, **VALUES)
    other = add(0.8)
    ledger.put_score(database, other.id, level=0, **VALUES)
    assert ledger.baseline_score(database, study.id) is None
    baseline = add(1.0)
    assert ledger.baseline_score(database, study.id) is None
    score = ledger.put_score(database, baseline.id, level=0, **VALUES)
    assert ledger.baseline_score(database, study.id) == (
        ledger.evaluation(database, baseline.id),
        score,
    )
    # A rung that is added later changes nothing.
    ledger.promote(database, baseline.id, 1000)
    ledger.put_score(database, baseline.id, level=1, **{**VALUES, "value": 9.0})
    found = ledger.baseline_score(database, study.id)
    assert found == (ledger.evaluation(database, baseline.id), score)


@pytest.mark.parametrize("key", ["value", "standard_error", "raw", "difference_error"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_are_finite(database: Database, add: Add, key: str, number: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        ledger.put_score(database, add(0.8).id, level=0, **{**VALUES, key: number})


def test_a_score_needs_its_rung(database: Database, add: Add) -> None:
    with pytest.raises(StorageError, match="no rung of level 3"):
        ledger.put_score(database, add(0.8).id, level=3, **VALUES)
    with pytest.raises(StorageError, match="an evaluation of this database"):
        ledger.put_score(database, "0" * 32, level=0, **VALUES)


def new(place: int, metric: str, **numbers: float) -> ledger.NewScore:
    usual = {"images": 500, "value": 1.0, "standard_error": 0.1}
    return ledger.NewScore(metric=metric, reference="r", place=place, **(usual | numbers))  # type: ignore[arg-type]


def test_all_scores_of_a_rung_are_stored_at_once(
    database: Database, study: ledger.Study, add: Add
) -> None:
    made = add(0.8)
    given = [new(0, "fd", difference=-0.5), new(1, "kid"), new(100, "kid <= 1", value=-0.5)]
    stored = ledger.put_scores(database, made.id, given, level=0)
    assert [(s.place, s.metric, s.value) for s in stored] == [
        (0, "fd", 1.0),
        (1, "kid", 1.0),
        (100, "kid <= 1", -0.5),
    ]
    assert ledger.evaluation(database, made.id).state == "complete"
    # Computed once more, elsewhere: what was stored first stays.
    again = [new(0, "fd", value=9.0), new(1, "kid", value=9.0)]
    assert ledger.put_scores(database, made.id, again, level=0) == stored[:2]
    # Who asks for the scores of a study means those that it decides on.
    assert [s.metric for s in ledger.scores(database, study.id)] == ["fd"]
    every = ledger.scores(database, study.id, level=0, every_place=True)
    assert [s.metric for s in every] == ["fd", "kid", "kid <= 1"]
    # Optuna is told of a rung once.
    assert [item.score.metric for item in ledger.untold(database, study.id) if item.score] == [
        "fd"
    ]


@pytest.mark.parametrize(
    ("value", "violated"), [(0.19, False), (0.196, False), (0.197, True), (-1.0, False)]
)
def test_a_constraint_is_violated_beyond_its_interval(
    database: Database, study: ledger.Study, add: Add, value: float, violated: bool
) -> None:
    made = add(0.8)
    given = [new(0, "fd", difference=-0.5), new(100, "kid <= 1", value=value)]
    stored = ledger.put_scores(database, made.id, given, level=0)
    assert stored[1].is_violated == violated
    assert ledger.scored_count(database, study.id, level=0) == (0 if violated else 1)
    due = ledger.promotable(database, study.id, level=0, places=5)
    assert [standing.evaluation_id for standing in due] == ([] if violated else [made.id])
    standings = ledger.standings(database, study.id, level=0, objectives=1)
    assert list(standings.values()) == ([] if violated else [(-0.5,)])
