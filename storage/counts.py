"""What a study has spent and where it stands, counted in the database."""

from __future__ import annotations

from typing import cast

from sqlalchemy import Subquery, func, select

from skiptune.storage.database import Database
from skiptune.storage.records import ChunkState, EvaluationState, Kind, Progress, Spending
from skiptune.storage.rows import same_images
from skiptune.storage.tables import ChunkRow, EvaluationRow, RungRow, clock

__all__ = ["progress", "spending"]


def spending(database: Database, study_id: str, *, block: str | None = None) -> Spending:
    """Count the images and seconds of a study, each chunk once.

    A chunk is paid for by the study that claimed it last.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        block: Count only the chunks that evaluations on this block of seeds ask for.
    """
    chunks = _chunks(study_id, block)
    done = chunks.c.state == "done"
    paid = chunks.c.study_id == study_id
    query = select(
        func.coalesce(func.sum(chunks.c.images).filter(done, paid), 0),
        func.coalesce(func.sum(chunks.c.seconds).filter(done, paid), 0.0),
        func.coalesce(func.sum(chunks.c.nfe * chunks.c.images).filter(done, paid), 0.0),
        func.coalesce(func.sum(chunks.c.doubled_images).filter(paid), 0),
        func.coalesce(func.sum(chunks.c.images).filter(done, chunks.c.study_id != study_id), 0),
    )
    with database.read() as session:
        images, seconds, network_images, doubled, reused = session.execute(query).one()
    return Spending(
        images=int(images),
        seconds=float(seconds),
        network_images=float(network_images),
        doubled_images=int(doubled),
        reused_images=int(reused),
    )


def progress(database: Database, study_id: str) -> Progress:
    """Count a study's evaluations and chunks by state, and name the workers that hold leases."""
    by_state = (
        select(EvaluationRow.kind, EvaluationRow.state, func.count())
        .where(EvaluationRow.study_id == study_id)
        .group_by(EvaluationRow.kind, EvaluationRow.state)
    )
    wanted = _chunks(study_id, None)
    chunks = select(wanted.c.state, func.count()).group_by(wanted.c.state)
    workers = (
        select(ChunkRow.worker)
        .where(
            ChunkRow.study_id == study_id,
            ChunkRow.state == "leased",
            ChunkRow.lease_until > clock(),
        )
        .distinct()
        .order_by(ChunkRow.worker)
    )
    with database.read() as session:
        return Progress(
            evaluations={
                (cast(Kind, kind), cast(EvaluationState, state)): count
                for kind, state, count in session.execute(by_state)
            },
            chunks={cast(ChunkState, state): count for state, count in session.execute(chunks)},
            workers=tuple(name for name in session.scalars(workers) if name is not None),
        )


def _chunks(study_id: str, block: str | None) -> Subquery:
    """The chunks that a study's rungs ask for, each once."""
    query = (
        select(
            ChunkRow.id,
            ChunkRow.study_id,
            ChunkRow.state,
            ChunkRow.images,
            ChunkRow.seconds,
            ChunkRow.nfe,
            ChunkRow.doubled_images,
        )
        .join(EvaluationRow, same_images())
        .join(RungRow, RungRow.evaluation_id == EvaluationRow.id)
        .where(
            EvaluationRow.study_id == study_id,
            ChunkRow.first_seed < EvaluationRow.first_seed + RungRow.images,
        )
        .distinct()
    )
    if block is not None:
        query = query.where(EvaluationRow.block == block)
    return query.subquery()
