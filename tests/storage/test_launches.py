"""Notes of launches: kept once each, gone with their study."""

from __future__ import annotations

import pytest

from skiptune.errors import StorageError
from skiptune.storage import ledger
from skiptune.storage.database import Database


def note(database: Database, study: ledger.Study, job: str, **other: str) -> ledger.Launch:
    values = {"executor": "slurm", "place": "cluster", **other}
    return ledger.add_launch(database, study.id, job=job, workers=4, **values)


def test_notes_are_kept_in_order_and_each_once(database: Database, study: ledger.Study) -> None:
    first, second = note(database, study, "41"), note(database, study, "42")
    assert note(database, study, "41") == first
    assert ledger.launches(database, study.id) == (first, second)
    assert (first.executor, first.place, first.job, first.workers) == ("slurm", "cluster", "41", 4)
    # The same number of another cluster is another job.
    third = note(database, study, "41", place="elsewhere")
    assert ledger.forget_launch(database, first)
    assert not ledger.forget_launch(database, first)
    assert ledger.launches(database, study.id) == (second, third)


def test_notes_go_with_their_study(database: Database, study: ledger.Study) -> None:
    note(database, study, "41")
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    kept = note(database, other, "42")
    ledger.delete_study(database, study.id)
    assert ledger.launches(database, study.id) == ()
    assert ledger.launches(database, other.id) == (kept,)


def test_a_launch_needs_a_study(database: Database) -> None:
    with pytest.raises(StorageError, match="a study of this database"):
        ledger.add_launch(database, "0" * 32, executor="slurm", place="c", job="1", workers=1)
