"""Turns: tasks of a study that one worker does at a time, such as asking Optuna.

Two workers that ask Optuna in the same instant may get the same proposal, and on SQLite may pop
the same waiting trial. A turn is a lease by the database's clock on a named task.
"""

from __future__ import annotations

from sqlalchemy import or_, select, text, update
from sqlalchemy.orm import Session

from skiptune.errors import TurnLostError
from skiptune.storage.database import Database
from skiptune.storage.records import Turn
from skiptune.storage.rows import insert_missing, study_row
from skiptune.storage.tables import TurnRow, clock

__all__ = ["check_turn", "end_turn", "held_turns", "renew_turn", "settle", "take_turn"]


def take_turn(
    database: Database, study_id: str, *, task: str, worker: str, seconds: float
) -> Turn | None:
    """Take the turn at a task if nobody has it, or if whoever had it let the lease run out.

    A worker that has it takes it anew: it did not hear that it had got it.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        task: Name of the task, e.g. ``"propose"``.
        worker: Name of the worker, unique among those alive; it does one task at a time.
        seconds: Length of the lease.

    Raises:
        StorageError: There is no such study.
    """
    take = (
        update(TurnRow)
        .where(
            TurnRow.study_id == study_id,
            TurnRow.task == task,
            or_(
                TurnRow.lease_until.is_(None),
                TurnRow.lease_until <= clock(),
                TurnRow.worker == worker,
            ),
        )
        .values(worker=worker, fence=TurnRow.fence + 1, lease_until=clock() + float(seconds))
        .returning(TurnRow.fence)
        .execution_options(synchronize_session=False)
    )
    there = select(TurnRow.fence).where(TurnRow.study_id == study_id, TurnRow.task == task)
    with database.write("take_turn") as session:
        fence = session.scalar(take)
        if fence is None and session.scalar(there) is None:
            # Nobody has had it yet.
            study_row(session, study_id)
            insert_missing(session, TurnRow, [{"study_id": study_id, "task": task}])
            fence = session.scalar(take)
    if fence is None:
        return None
    return Turn(study_id=study_id, task=task, worker=worker, fence=fence)


def renew_turn(database: Database, turn: Turn, *, seconds: float) -> None:
    """Begin the lease of a turn anew, before a step that nobody else may take as well.

    Arguments:
        database: Where the study lives.
        turn: From `take_turn`.
        seconds: Length of the lease from now on.

    Raises:
        TurnLostError: Its lease ran out and somebody else has taken the turn.
    """
    with database.write() as session:
        check_turn(session, turn)
        session.execute(
            update(TurnRow)
            .where(TurnRow.study_id == turn.study_id, TurnRow.task == turn.task)
            .values(lease_until=clock() + float(seconds))
            .execution_options(synchronize_session=False)
        )


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


def settle(database: Database) -> None:
    """Wait until what was on its way to Optuna's tables has arrived, or never will.

    A server goes on with a COMMIT whose sender was killed or cut off. Whoever had the turn next
    would not see it yet, and tell Optuna the same again: so a turn that was left in the middle
    ends after this. On SQLite nothing is written by anybody but the process itself.

    Raises:
        UnavailableError: The server cannot be reached now, or somebody writes for too long.
    """
    if database.is_sqlite:
        return
    with database.write() as session:
        # Conflicts with every transaction that has written to the table, and with no reader.
        session.execute(text("LOCK TABLE trials IN SHARE MODE"))


def held_turns(database: Database, study_id: str) -> tuple[Turn, ...]:
    """Return the turns of a study that somebody has, whether or not their leases ran out."""
    query = (
        select(TurnRow)
        .where(TurnRow.study_id == study_id, TurnRow.worker.is_not(None))
        .order_by(TurnRow.task)
    )
    with database.read() as session:
        return tuple(
            Turn(study_id=study_id, task=row.task, worker=row.worker or "", fence=row.fence)
            for row in session.scalars(query)
        )


def check_turn(session: Session, turn: Turn) -> None:
    """Make sure, until the transaction ends, that a turn is still its worker's.

    Raises:
        TurnLostError: Its lease ran out and somebody else has taken the turn.
    """
    query = select(TurnRow.fence).filter_by(study_id=turn.study_id, task=turn.task)
    if session.scalar(query.with_for_update()) != turn.fence:
        raise TurnLostError(
            f"the turn to {turn.task}",
            expected=f"the turn of {turn.worker} (fence {turn.fence})",
            found="another worker's",
            hint="nothing to do: the proposal is dropped, and the other worker makes its own",
        )
