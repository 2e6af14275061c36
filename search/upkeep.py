"""What keeps a database of studies in order: deleting, projecting anew, collecting garbage."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Final

from skiptune.errors import StorageError
from skiptune.search.liveness import break_dead_leases, worker_name
from skiptune.search.overview import confirms
from skiptune.search.pending import PENDING
from skiptune.search.projection import Board, board_names, delete_optuna_studies
from skiptune.search.result import WIN
from skiptune.storage import ledger
from skiptune.storage.arrays import ArrayStore, StoredFile
from skiptune.storage.database import Database
from skiptune.storage.markers import marked
from skiptune.storage.pictures import PNG
from skiptune.storage.records import Turn
from skiptune.storage.turns import end_turn, renew_turn, take_turn

__all__ = ["ORPHAN_SECONDS", "Collected", "collect", "delete", "project"]

ORPHAN_SECONDS: Final = 24 * 3600.0
"""A file that no row names is garbage after so long: its worker may yet deliver the row."""

TURN_SECONDS: Final = 600.0  # projecting ten thousand trials anew takes minutes


@dataclass(frozen=True)
class Collected:
    """What garbage collection has removed, or would remove.

    Arguments:
        files: Files that no row names.
        bytes: Their size, together with that of dropped arrays.
        chunks: Chunks whose arrays were dropped; hashes and scores stay.
        images: Their images.
    """

    files: int
    bytes: int
    chunks: int
    images: int


def delete(database: Database, name: str, *, store: ArrayStore | None) -> int:
    """Delete a study: our rows, Optuna's studies of all its rungs, then files nobody else needs.

    Arguments:
        database: Where it lives.
        name: Its name.
        store: Where its arrays are; None leaves the files to `collect`.

    Returns:
        How many files were removed.

    Raises:
        StorageError: There is no study of this name.
    """
    study = ledger.require_study(database, name)
    arrays = ledger.delete_study(database, study.id)
    pictures = ledger.drop_pictures(database)
    delete_optuna_studies(database, board_names(study))
    if store is None or _is_shared(database, store):
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
    return True


def collect(
    database: Database, store: ArrayStore, *, drop: bool = False, dry_run: bool = False
) -> Collected:
    """Remove files that no row names and that are older than a day.

    Arguments:
        database: Whose rows count.
        store: Its store.
        drop: Also give up the arrays of all but the baselines, the confirmed and the ten best
            schedules of each study; their hashes and scores are kept.
        dry_run: Only count.

    Raises:
        StorageError: The store belongs to other databases too, whose rows are not known here.
    """
    if _is_shared(database, store):
        raise StorageError(
            store.location,
            expected="a store of this database alone",
            found=f"one that {len(marked(store))} databases share (markers in .skiptune/)",
            hint="give each database a store of its own with --artifacts; nothing was removed",
        )
    chunks, images = ledger.droppable_arrays(database) if drop else (0, 0)
    dropped = set(ledger.drop_arrays(database)) if drop and not dry_run else set()
    if not dry_run:
        # Of studies whose deletion was cut short; their files go as all do that no row names.
        ledger.drop_pictures(database)
    named = ledger.named_files(database)
    # What a worker has stored and could not deliver yet.
    pending = {str(note.get("values", {}).get("array")) for _, note in store.notes(PENDING)}
    old = store.now() - ORPHAN_SECONDS
    files = size = 0
    for file in store.files():
        if file.digest in dropped:
            size += file.bytes
            store.remove(file.digest, suffix=file.suffix)
        elif file.digest not in named | pending and _goes(store, file, old, dry_run=dry_run):
            files, size = files + 1, size + file.bytes
    for file in store.leftovers():
        if _goes(store, file, old, dry_run=dry_run):
            files, size = files + 1, size + file.bytes
    return Collected(files, size, chunks, images)


def _goes(store: ArrayStore, file: StoredFile, old: float, *, dry_run: bool) -> bool:
    if file.modified >= old:
        return False
    if dry_run:
        return True
    if file.digest:
        return store.remove(file.digest, suffix=file.suffix, written_before=old)
    return store.remove_leftover(file.name, written_before=old)


def _is_shared(database: Database, store: ArrayStore) -> bool:
    return bool(set(marked(store)) - {ledger.database_id(database)})


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
