"""What a study has spent and where it stands, counted in the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from sqlalchemy import func, select

from skiptune.storage.budgets import wanted_chunks
from skiptune.storage.database import Database
from skiptune.storage.records import (
    CHUNK_FORMAT,
    ChunkState,
    EvaluationState,
    Kind,
    Progress,
    Spending,
)
from skiptune.storage.rows import same_images
from skiptune.storage.tables import ChunkRow, EvaluationRow, clock

__all__ = [
    "count_evaluations",
    "foreign_formats",
    "images_wanted",
    "network_images",
    "progress",
    "reused_chunks",
    "spending",
]


def count_evaluations(database: Database, study_id: str, *, kind: Kind, block: str) -> int:
    """Return how many evaluations of a kind a study has on a block of seeds."""
    query = select(func.count()).where(
        EvaluationRow.study_id == study_id,
        EvaluationRow.kind == kind,
        EvaluationRow.block == block,
    )
    with database.read() as session:
        return int(session.scalars(query).one())


def images_wanted(database: Database, study_id: str, *, block: str) -> tuple[int, int]:
    """Return the images that the rungs on a block ask for, and how many of them are stored."""
    chunks = wanted_chunks(study_id, block).subquery()
    query = select(
        func.coalesce(func.sum(chunks.c.images), 0),
        func.coalesce(func.sum(chunks.c.images).filter(chunks.c.state == "done"), 0),
    )
    with database.read() as session:
        wanted, stored = session.execute(query).one()
    return int(wanted), int(stored)


def reused_chunks(database: Database, study_id: str, *, block: str) -> dict[str, list[int]]:
    """Return which stored chunks of a study's proposals another study has paid for.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        block: Block of seeds of the proposals.

    Returns:
        By evaluation, where there are any: images of it before each such chunk, increasing.
        Chunks that no rung of it asks for yet are among them.
    """
    query = (
        select(EvaluationRow.id, ChunkRow.first_seed - EvaluationRow.first_seed)
        .join(ChunkRow, same_images())
        .where(
            EvaluationRow.study_id == study_id,
            EvaluationRow.kind == "proposal",
            EvaluationRow.block == block,
            ChunkRow.study_id.is_not(None),
            ChunkRow.study_id != study_id,
            ChunkRow.state.in_(("done", "dropped")),
        )
        .order_by(ChunkRow.first_seed)
    )
    found: dict[str, list[int]] = {}
    with database.read() as session:
        for key, before in session.execute(query):
            found.setdefault(key, []).append(int(before))
    return found


def network_images(database: Database, evaluations: Sequence[str]) -> dict[str, float]:
    """Return the images through the network per image made, by evaluation.

    Arguments:
        database: Where they live.
        evaluations: Their identities; those whose first chunk is not done are absent.
    """
    found: dict[str, float] = {}
    with database.read() as session:
        for first in range(0, len(evaluations), 1000):
            query = (
                select(EvaluationRow.id, ChunkRow.nfe)
                .join(ChunkRow, same_images())
                .where(
                    EvaluationRow.id.in_(evaluations[first : first + 1000]),
                    ChunkRow.first_seed == EvaluationRow.first_seed,
                    ChunkRow.nfe.is_not(None),
                )
            )
            found.update((key, float(nfe or 0.0)) for key, nfe in session.execute(query))
    return found


def foreign_formats(database: Database, study_id: str) -> tuple[int, ...]:
    """Return the formats, other than ours, of chunks that a study still waits for."""
    chunks = wanted_chunks(study_id).subquery()
    query = (
        select(chunks.c.format)
        .where(chunks.c.state.in_(("open", "leased")), chunks.c.format != CHUNK_FORMAT)
        .distinct()
        .order_by(chunks.c.format)
    )
    with database.read() as session:
        return tuple(session.scalars(query))


def spending(database: Database, study_id: str, *, block: str | None = None) -> Spending:
    """Count the images and seconds of a study, each chunk once.

    A chunk is paid for by the study that claimed it last.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        block: Count only the chunks that evaluations on this block of seeds ask for.
    """
    chunks = wanted_chunks(study_id, block).subquery()
    # Arrays may be dropped later; what they cost was spent.
    done = chunks.c.state.in_(("done", "dropped"))
    paid = chunks.c.study_id == study_id
    others = func.coalesce(chunks.c.study_id, "") != study_id
    query = select(
        func.coalesce(func.sum(chunks.c.images).filter(done, paid), 0),
        func.coalesce(func.sum(chunks.c.seconds).filter(done, paid), 0.0),
        func.coalesce(func.sum(chunks.c.nfe * chunks.c.images).filter(done, paid), 0.0),
        func.coalesce(func.sum(chunks.c.doubled_images).filter(paid), 0),
        func.coalesce(func.sum(chunks.c.images).filter(done, others), 0),
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
    wanted = wanted_chunks(study_id).subquery()
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
