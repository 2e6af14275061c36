"""Deleting, projecting anew, and what garbage collection may remove."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from skiptune.errors import StorageError
from skiptune.search.confirm import result_of
from skiptune.search.garbage import collect
from skiptune.search.liveness import worker_name
from skiptune.search.projection import Board, board_names
from skiptune.search.study import OpenStudy
from skiptune.search.upkeep import delete, project
from skiptune.search.worker import Limits
from skiptune.storage import ledger
from skiptune.storage.markers import mark
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.turns import end_turn, take_turn
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member


def names(study: OpenStudy) -> set[str]:
    return {s.study_name for s in optuna_storage(study.database).get_all_studies()}


def finished(tiny: Tiny, **changes: Any) -> OpenStudy:
    study = tiny.open(**changes)
    assert crew_member(study, "a", limits=UNTIL_DONE).run() == "complete"
    return study


def trials(study: OpenStudy, name: str) -> list[Any]:
    found = optuna.load_study(study_name=name, storage=optuna_storage(study.database))
    return sorted(((t.state, t.values, t.user_attrs) for t in found.trials), key=repr)


def test_projected_anew_everything_is_there_again(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    assert result_of(study, 1).verdict == "win"
    before = {name: trials(study, name) for name in board_names(study.row)}
    assert len(before["tiny/confirmed"]) == 2
    for rebuild in (False, True, False):
        project(study.database, "tiny", rebuild=rebuild)
        assert {name: trials(study, name) for name in board_names(study.row)} == before
    for name in board_names(study.row):
        optuna.delete_study(study_name=name, storage=optuna_storage(study.database))
    project(study.database, "tiny", rebuild=True)
    assert {name: trials(study, name) for name in board_names(study.row)} == before


def test_whoever_has_the_turn_is_waited_for(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = finished(tiny), tiny.open()

    def taken(worker: str) -> Any:
        turn = take_turn(other.database, other.id, task="propose", worker=worker, seconds=1e6)
        assert turn is not None
        return turn

    held = taken("elsewhere:0:1:1")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            end_turn(other.database, held)

    monkeypatch.setattr("time.sleep", sleep)
    project(study.database, "tiny")
    assert len(waits) == 3
    taken("elsewhere:0:1:1")
    with pytest.raises(StorageError, match="a worker that has been doing so for a minute"):
        project(study.database, "tiny")
    assert 55.0 < sum(waits[3:]) < 65.0


def test_the_turn_of_a_dead_worker_of_this_host_is_taken(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    dead = f"{worker_name().rpartition(':')[0]}:1"
    take_turn(study.database, study.id, task="propose", worker=dead, seconds=1e6)
    project(study.database, "tiny")


def test_a_deleted_study_leaves_nothing_behind(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    other = tiny.open(study="other", setting__steps=4)
    crew_member(other, "b", limits=Limits(images=500)).run()
    theirs = {file.digest for file in study.arrays.files()}
    mine = ledger.spending(study.database, study.id).images // 250
    # The two chunks of both baselines are the same bytes: made-up images ignore the setting.
    assert delete(study.database, "tiny", store=study.arrays) == mine - 2
    assert ledger.find_study(study.database, "tiny") is None
    assert not set(board_names(study.row)) & names(study)
    left = {file.digest for file in study.arrays.files()}
    assert left < theirs
    # What the other study needs, and files that hosts without them fetch, are there.
    for evaluation in ledger.evaluations(other.database, other.id):
        for chunk in ledger.chunks_of(other.database, evaluation.id):
            assert chunk.array is None or chunk.array in left
    assert crew_member(other, "b", limits=UNTIL_DONE).run() == "complete"
    with pytest.raises(StorageError):
        delete(study.database, "tiny", store=study.arrays)


def test_what_is_deleted_while_it_is_projected_stays_deleted(
    tiny: Tiny, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finished(tiny)
    refresh = Board.refresh

    def racing(board: Board) -> None:
        delete(study.database, study.row.name, store=study.arrays)
        refresh(board)

    monkeypatch.setattr(Board, "refresh", racing)
    with pytest.raises(StorageError, match="no study 'tiny'"):
        project(study.database, study.row.name, patient=False)
    assert names(study) == set()


def test_arrays_that_another_study_uses_stay(tiny: Tiny, quick: None) -> None:
    study, other = finished(tiny), finished(tiny, study="other")
    spent = ledger.spending(other.database, other.id)
    assert (spent.images, spent.reused_images > 0) == (0, True)
    assert delete(study.database, "tiny", store=study.arrays) == 0
    assert result_of(other, 1).verdict == "win"
    project(other.database, "other", rebuild=True)


@pytest.mark.parametrize("kept", ["no store", "a shared store"])
def test_files_stay_where_their_owners_are_not_known(tiny: Tiny, quick: None, kept: str) -> None:
    study = finished(tiny)
    before = {file.digest for file in study.arrays.files()}
    mark(study.arrays, "0" * 32)
    store = None if kept == "no store" else study.arrays
    assert delete(study.database, "tiny", store=store) == 0
    assert {file.digest for file in study.arrays.files()} == before
    with pytest.raises(StorageError, match="2 databases share"):
        collect(study.database, study.arrays)


def test_who_is_not_patient_leaves_it_to_the_worker(tiny: Tiny, quick: None) -> None:
    study = finished(tiny)
    turn = take_turn(study.database, study.id, task="propose", worker="b:0:1:1", seconds=60.0)
    assert turn is not None
    assert not project(study.database, "tiny", patient=False)
    end_turn(study.database, turn)
    assert project(study.database, "tiny", patient=False)
