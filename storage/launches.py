"""Notes of launches: under which names the workers of a study can be asked for and ended."""

from __future__ import annotations

from sqlalchemy import delete, select

from skiptune.storage.database import Database
from skiptune.storage.records import Launch
from skiptune.storage.rows import insert_missing, launch_of, now, study_row
from skiptune.storage.tables import LaunchRow

__all__ = ["add_launch", "forget_launch", "launches"]


def add_launch(
    database: Database, study_id: str, *, executor: str, place: str, job: str, workers: int
) -> Launch:
    """Note that workers were started; said again, the first note stays.

    Arguments:
        database: Where the study lives.
        study_id: Whose workers they are.
        executor: Who has started them, e.g. ``slurm``.
        place: Where the executor knows them: a host, a cluster, a namespace.
        job: Under which name it knows them there.
        workers: How many, at least 1.

    Raises:
        StorageError: There is no such study.
    """
    key = {"executor": executor, "place": place, "job": job}
    with database.write() as session:
        study_row(session, study_id)
        values = {**key, "study_id": study_id, "workers": workers, "created": now(session)}
        insert_missing(session, LaunchRow, [values])
        return launch_of(session.scalars(select(LaunchRow).filter_by(**key)).one())


def launches(database: Database, study_id: str) -> tuple[Launch, ...]:
    """Return the noted launches of a study, oldest first; whether they live, executors know."""
    query = (
        select(LaunchRow)
        .where(LaunchRow.study_id == study_id)
        .order_by(LaunchRow.created, LaunchRow.id)
    )
    with database.read() as session:
        return tuple(launch_of(row) for row in session.scalars(query))


def forget_launch(database: Database, launch: Launch) -> bool:
    """Remove the note of a launch that is over; return whether there was one."""
    with database.write() as session:
        gone = session.execute(delete(LaunchRow).where(LaunchRow.id == launch.id))
        return bool(gone.rowcount)  # type: ignore[attr-defined]
