"""Chunks that are given up after three lost leases, and the second chance of what needed them."""

from __future__ import annotations

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from skiptune.storage.database import Database
from skiptune.storage.rows import study_row
from skiptune.storage.tables import ChunkRow, EvaluationRow, RungRow, clock

__all__ = ["poison_chunk", "retry_failed"]


def poison_chunk(session: Session, chunk: ChunkRow, reason: str) -> None:
    """Give a chunk up, and fail the running evaluations that need it, in the caller's transaction.

    Arguments:
        session: Of the transaction, which holds the chunk's row.
        chunk: The chunk.
        reason: Shown to people, kept with the chunk and the evaluations.
    """
    chunk.state = "poisoned"
    chunk.reason = reason
    chunk.lease_until = None
    session.flush()
    needing = (
        select(EvaluationRow.id)
        .join(RungRow, RungRow.evaluation_id == EvaluationRow.id)
        .where(
            EvaluationRow.series == chunk.series,
            EvaluationRow.measure == chunk.measure,
            EvaluationRow.schedule == chunk.schedule,
            EvaluationRow.first_seed <= chunk.first_seed,
            EvaluationRow.first_seed + RungRow.images > chunk.first_seed,
            EvaluationRow.state == "running",
        )
    )
    session.execute(
        update(EvaluationRow)
        .where(EvaluationRow.id.in_(needing))
        .values(
            state="failed",
            reason=f"chunk from seed {chunk.first_seed}: {reason}",
            finished=clock(),
        )
        .execution_options(synchronize_session=False)
    )


def retry_failed(database: Database, study_id: str) -> int:
    """Let a study's failed evaluations run again, with three more leases of what was poisoned.

    What was dropped meanwhile to save space is sampled again. Optuna is told of them anew: as new
    trials, because a trial that was told FAIL stays so.

    Arguments:
        database: Where the study lives.
        study_id: The study.

    Returns:
        How many evaluations run again.

    Raises:
        StorageError: There is no such study.
    """
    with database.write("retry_failed") as session:
        study_row(session, study_id)
        failed = list(
            session.scalars(
                select(EvaluationRow)
                .where(EvaluationRow.study_id == study_id, EvaluationRow.state == "failed")
                .with_for_update()
            )
        )
        for row in failed:
            images = session.scalar(
                select(func.max(RungRow.images)).where(RungRow.evaluation_id == row.id)
            )
            session.execute(
                update(ChunkRow)
                .where(
                    ChunkRow.series == row.series,
                    ChunkRow.measure == row.measure,
                    ChunkRow.schedule == row.schedule,
                    ChunkRow.first_seed >= row.first_seed,
                    ChunkRow.first_seed < row.first_seed + (images or 0),
                    ChunkRow.state.in_(("poisoned", "dropped")),
                )
                .values(state="open", attempts=0, reason=None)
                .execution_options(synchronize_session=False)
            )
            row.state, row.reason, row.finished, row.projected = "running", None, None, 0
        return len(failed)
