"""What is given up after three lost leases, and tried again when somebody asks."""

from __future__ import annotations

import pytest

from skiptune.errors import StorageError
from skiptune.storage import leases, ledger
from skiptune.storage.database import Database
from tests.storage.conftest import Add, Work


def test_a_failed_evaluation_runs_again(
    database: Database, study: ledger.Study, add: Add, work: Work
) -> None:
    good, bad = add(0.9, images=250), add(0.8, images=500)
    assert len(work(most=1)) == 1
    held = leases.claim_chunk(database, study.id, worker="w", seconds=60.0)
    assert held is not None and held.evaluation_id == bad.id
    leases.poison(database, held, "it does not fit")
    ledger.mark_told(database, ledger.untold(database, study.id))
    before = ledger.chunks_of(database, good.id)

    assert ledger.retry_failed(database, study.id) == 1

    again = ledger.evaluation(database, bad.id)
    assert (again.state, again.reason, again.finished) == ("running", None, None)
    assert {chunk.state for chunk in ledger.chunks_of(database, bad.id)} == {"open"}
    assert ledger.chunks_of(database, good.id) == before
    # As often as before: the third lost lease poisons it once more.
    for attempt in range(3):
        lost = leases.claim_chunk(database, study.id, worker=f"w{attempt}", seconds=0.0)
        assert lost is not None and lost.chunk_id == held.chunk_id
    other = leases.claim_chunk(database, study.id, worker="last", seconds=0.0)
    assert other is None
    assert ledger.evaluation(database, bad.id).state == "failed"
    # Its end is told once more, because the trial of the first one has ended.
    told = [item.evaluation.id for item in ledger.untold(database, study.id)]
    assert told == [bad.id]


def test_only_failed_evaluations_of_this_study_run_again(
    database: Database, study: ledger.Study, add: Add
) -> None:
    diverged = add(0.8, images=250)
    ledger.finish_evaluation(database, diverged.id, state="diverged", reason="NaN")
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    theirs = add(0.7, images=250, study_id=other.id)
    ledger.finish_evaluation(database, theirs.id, state="failed", reason="theirs")
    assert ledger.retry_failed(database, study.id) == 0
    assert ledger.evaluation(database, diverged.id).state == "diverged"
    assert ledger.evaluation(database, theirs.id).state == "failed"


def test_an_unknown_study_is_refused(database: Database) -> None:
    with pytest.raises(StorageError):
        ledger.retry_failed(database, "none")
