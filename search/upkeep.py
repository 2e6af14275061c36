"""What keeps a database of studies in order: deleting them, and projecting them anew."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from skiptune.errors import StorageError
from skiptune.search.garbage import is_shared
from skiptune.search.liveness import break_dead_leases, worker_name
from skiptune.search.overview import confirms
from skiptune.search.projection import Board, board_names, delete_optuna_studies
from skiptune.search.result import WIN
from skiptune.storage import ledger
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database
from skiptune.storage.pictures import PNG
from skiptune.storage.records import Turn
from skiptune.storage.turns import end_turn, renew_turn, take_turn

__all__ = ["delete", "project"]

TURN_SECONDS: Final = 600.0  # projecting ten thousand trials anew takes minutes


def delete(database: Database, name: str, *, store: ArrayStore | None) -> int:
    """Delete a study: our rows, Optuna's studies of all its rungs, then files nobody else needs.

    Arguments:
        database: Where it lives.
        name: Its name.
        store: Where its arrays are; None leaves the files to `garbage.collect`.

    Returns:
        How many files were removed.

    Raises:
        StorageError: There is no study of this name.
    """
    study = ledger.require_study(database, name)
    arrays = ledger.delete_study(database, study.id)
    pictures = ledger.drop_pictures(database)
    delete_optuna_studies(database, board_names(study))
    if store is None or is_shared(database, store):
        return 0
    removed = sum(store.remove(array) for array in arrays)
    return removed + sum(store.remove(picture, suffix=PNG) for picture in pictures)


def project(database: Database, name: str, *, rebuild: bool = False, patient: bool = True) -> bool:
    """Bring Optuna's studies of a study up to date with our rows.

    Arguments:
        database: Where both live.
        name: The study's name.
        rebuild: Delete them and make them anew.
        patient: Wait for a worker that asks or tells at this moment; else leave it to him.

    Returns:
        Whether it was done.

    Raises:
        StorageError: There is no such study, or a worker has its turn for too long.
    """
    study = ledger.require_study(database, name)
    turn = _turn(database, study.id, name) if patient else _turn_now(database, study.id)
    if turn is None:
        return False
    keep = partial(renew_turn, database, turn, seconds=TURN_SECONDS)
    try:
        board = Board(database, study)
        if rebuild:
            board.rebuild(keep=keep)
        else:
            board.refresh()
            board.project(keep=keep)
        for confirmed in confirms(database, name):
            if confirmed.verdict == WIN:
                block = f"confirm-{confirmed.number}/B"
                here = ledger.evaluations(database, study.id, block=block)
                board.project_confirmed(
                    next(e for e in here if e.kind == "baseline"),
                    next(e for e in here if e.kind == "confirm"),
                )
    finally:
        end_turn(database, turn)
        if ledger.find_study(database, name) is None:
            # It was deleted while we were at it: what we have made since is nobody's.
            delete_optuna_studies(database, board_names(study))
    return True


def _turn_now(database: Database, study_id: str) -> Turn | None:
    break_dead_leases(database, study_id)
    return take_turn(
        database, study_id, task="propose", worker=worker_name(), seconds=TURN_SECONDS
    )


def _turn(database: Database, study_id: str, name: str) -> Turn:
    """Return the study's turn, waiting for a worker that has it."""
    for _ in range(120):
        turn = _turn_now(database, study_id)
        if turn is not None:
            return turn
        time.sleep(0.5)
    raise StorageError(
        f"study {name}",
        expected="a moment in which no worker asks or tells Optuna",
        found="a worker that has been doing so for a minute",
        hint=f"pause the study, then run it again: skiptune pause {name}",
    )
