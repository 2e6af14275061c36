from __future__ import annotations

from skiptune.storage import ledger
from skiptune.storage.database import Database
from skiptune.storage.outcomes import outcomes
from tests.storage.conftest import Add


def score(database: Database, evaluation: ledger.Evaluation, level: int, value: float) -> None:
    ledger.put_score(
        database,
        evaluation.id,
        level=level,
        metric="m",
        reference="r",
        images=500,
        value=value,
        standard_error=0.1,
        difference=value - 7.0,
        difference_error=0.1,
    )


def test_the_lowest_rung_alone_counts_and_parts_make_the_whole(
    database: Database, study: ledger.Study, add: Add
) -> None:
    add(1.0)
    first, second, third = (add(scale) for scale in (1.1, 1.2, 1.3))
    add(1.4, block="confirm-1/A")
    add(1.5, kind="confirm")
    score(database, second, 0, 6.0)
    ledger.promote(database, second.id, 1000)
    score(database, second, 1, 5.0)
    ledger.finish_evaluation(database, third.id, "diverged", "not finite")

    found = outcomes(database, study.id, after=-1)
    assert [outcome.number for outcome in found] == [0, 1, 2, 3]
    assert [outcome.kind for outcome in found] == ["baseline", *["proposal"] * 3]
    assert [outcome.scored for outcome in found] == [False, False, True, False]
    assert [outcome.difference for outcome in found] == [None, None, -1.0, None]
    assert [outcome.state for outcome in found] == ["running", "running", "complete", "diverged"]
    assert found[1].params == {"skip/a": 1.1}
    assert [outcome.schedule for outcome in found[1:3]] == [first.schedule, second.schedule]

    assert outcomes(database, study.id, after=3) == ()
    assert outcomes(database, study.id, after=2) == found[3:]
    assert outcomes(database, study.id, after=2, again=[first.id]) == (found[1], found[3])
    assert outcomes(database, "0" * 32, after=-1) == ()
