"""Turns: one worker at a time, and a dead one does not block the others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from skiptune.errors import StorageError
from skiptune.storage import end_turn, ledger, take_turn
from skiptune.storage.database import Database


def test_one_at_a_time(database: Database, study: ledger.Study) -> None:
    with ThreadPoolExecutor(4) as pool:
        taken = list(
            pool.map(
                lambda worker: take_turn(
                    database, study.id, task="propose", worker=str(worker), seconds=60.0
                ),
                range(8),
            )
        )
    [turn] = [item for item in taken if item is not None]
    assert (turn.study_id, turn.task, turn.fence) == (study.id, "propose", 1)
    assert take_turn(database, study.id, task="project", worker="x", seconds=60.0) is not None
    assert end_turn(database, turn)
    following = take_turn(database, study.id, task="propose", worker="x", seconds=60.0)
    assert following is not None and following.fence == 2
    assert not end_turn(database, turn)
    assert take_turn(database, study.id, task="propose", worker="y", seconds=60.0) is None


def test_the_turn_of_a_dead_worker_ends(database: Database, study: ledger.Study) -> None:
    dead = take_turn(database, study.id, task="propose", worker="dead", seconds=0.0)
    heir = take_turn(database, study.id, task="propose", worker="heir", seconds=60.0)
    assert dead is not None and heir is not None
    assert not end_turn(database, dead)
    assert take_turn(database, study.id, task="propose", worker="x", seconds=60.0) is None


def test_studies_do_not_wait_for_each_other(database: Database, study: ledger.Study) -> None:
    other = ledger.create_study(database, name="dogs", spec={}, meaning={})
    for item in (study, other):
        assert take_turn(database, item.id, task="propose", worker="w", seconds=60.0) is not None


def test_an_unknown_study(database: Database) -> None:
    with pytest.raises(StorageError, match="a study of this database"):
        take_turn(database, "0" * 32, task="propose", worker="w", seconds=60.0)
