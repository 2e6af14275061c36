"""Turns: tasks of a study that one worker does at a time, such as asking Optuna.

Two workers that ask Optuna in the same instant may get the same proposal, and on SQLite may pop
the same waiting trial. A turn is a lease by the database's clock on a named task.
"""

from __future__ import annotations

from sqlalchemy import or_, update

from skiptune.storage.database import Database
from skiptune.storage.records import Turn
from skiptune.storage.rows import insert_missing, lock_study
from skiptune.storage.tables import TurnRow, clock

__all__ = ["end_turn", "take_turn"]


def take_turn(
    database: Database, study_id: str, *, task: str, worker: str, seconds: float
) -> Turn | None:
    """Take the turn at a task if nobody has it, or if whoever had it let the lease run out.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        task: Name of the task, e.g. ``"propose"``.
        worker: Name of the worker; one that has the turn already does not get it twice.
        seconds: Length of the lease.

    Raises:
        StorageError: There is no such study.
    """
    with database.write("take_turn") as session:
        lock_study(session, study_id)
        insert_missing(session, TurnRow, [{"study_id": study_id, "task": task}])
        fence = session.scalar(
            update(TurnRow)
            .where(
                TurnRow.study_id == study_id,
                TurnRow.task == task,
                or_(TurnRow.lease_until.is_(None), TurnRow.lease_until <= clock()),
            )
            .values(worker=worker, fence=TurnRow.fence + 1, lease_until=clock() + float(seconds))
            .returning(TurnRow.fence)
            .execution_options(synchronize_session=False)
        )
    if fence is None:
        return None
    return Turn(study_id=study_id, task=task, worker=worker, fence=fence)


def end_turn(database: Database, turn: Turn) -> bool:
    """Let the next worker have the turn.

    Returns:
        Whether the turn was still this worker's; if not, somebody else has done the task since.
    """
    with database.write("end_turn") as session:
        ended = session.scalar(
            update(TurnRow)
            .where(
                TurnRow.study_id == turn.study_id,
                TurnRow.task == turn.task,
                TurnRow.fence == turn.fence,
            )
            .values(worker=None, lease_until=None)
            .returning(TurnRow.fence)
            .execution_options(synchronize_session=False)
        )
        return ended is not None
