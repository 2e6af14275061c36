"""The mark of a study's rows changes with what can be told of it, and with nothing else."""

from __future__ import annotations

from skiptune.storage import leases, ledger
from skiptune.storage.changes import state_mark
from skiptune.storage.database import Database
from tests.storage.conftest import Add


def test_the_mark_follows_the_rows(database: Database, study: ledger.Study, add: Add) -> None:
    def mark() -> str:
        return state_mark(database, ledger.require_study(database, study.name))

    seen = [mark()]

    def changed() -> None:
        assert mark() not in seen
        assert mark() == mark()
        seen.append(mark())

    made = add(0.8, images=250)
    changed()
    claim = leases.claim_chunk(database, study.id, worker="w", seconds=60.0)
    assert claim is not None
    leases.commit_chunk(database, claim, array="a" * 64, seconds=1.0, nfe=5.0)
    assert mark() == seen[-1]  # nothing can be told before the score
    ledger.put_score(
        database, made.id, level=0, metric="m", reference="r", images=250, value=1.0,
        standard_error=0.1, difference=-0.5, difference_error=0.1,
    )  # fmt: skip
    changed()
    ledger.promote(database, made.id, images=500)
    changed()
    ledger.spend_block(database, study.id, block="c", images=250, alpha=0.05)
    changed()
    failed = add(0.9, images=250)
    changed()
    ledger.finish_evaluation(database, failed.id, "failed", reason="it failed")
    changed()
    ledger.set_study_state(database, study.id, "paused")
    changed()


def test_another_study_s_rows_do_not_count(
    database: Database, study: ledger.Study, add: Add
) -> None:
    before = state_mark(database, study)
    other = ledger.create_study(database, name="other", spec={"s": 1}, meaning={"m": 1})
    add(0.7, study_id=other.id)
    assert state_mark(database, study) == before
    assert state_mark(database, other) != before
