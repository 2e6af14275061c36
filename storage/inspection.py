"""What a study's rows say about its health: chunks given up, leases left, arrays, versions.

Read only. Every function looks at the chunks that the study's rungs ask for, whoever made them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from skiptune.storage.budgets import wanted_chunks
from skiptune.storage.database import Database
from skiptune.storage.records import Chunk
from skiptune.storage.rows import chunk_of, parse, same_images
from skiptune.storage.tables import ChunkRow, EvaluationRow, RungRow, TurnRow, clock

__all__ = [
    "Abandoned",
    "DeviceWork",
    "StoredArray",
    "abandoned",
    "arrays_of",
    "chunk_formats",
    "devices_used",
    "poisoned_chunks",
    "sampled_arrays",
    "versions_used",
]


@dataclass(frozen=True)
class Abandoned:
    """A lease that has run out and that nobody has taken over.

    Arguments:
        what: ``chunk from seed N`` or ``turn to TASK``.
        worker: Who had it.
        seconds: How long ago it ended, by the database's clock.
        is_turn: Whether it was on a task of the study, not on a chunk.
    """

    what: str
    worker: str
    seconds: float
    is_turn: bool = False


@dataclass(frozen=True)
class StoredArray:
    """The arrays of a done chunk: their digest, and the chunk's first seed."""

    digest: str
    first_seed: int


def poisoned_chunks(database: Database, study_id: str) -> tuple[Chunk, ...]:
    """Return the chunks of a study that were given up, in seed order; `reason` says why."""
    wanted = wanted_chunks(study_id).subquery()
    query = (
        select(ChunkRow)
        .where(ChunkRow.state == "poisoned", ChunkRow.id.in_(select(wanted.c.id)))
        .order_by(ChunkRow.first_seed, ChunkRow.id)
    )
    with database.read() as session:
        return tuple(chunk_of(row) for row in session.scalars(query))


def abandoned(database: Database, study_id: str, *, seconds: float) -> tuple[Abandoned, ...]:
    """Return the leases and turns that ended at least so many seconds ago and still wait.

    Only chunks that a worker would claim count: those of an evaluation that has ended do not.
    """
    chunks = (
        select(ChunkRow.first_seed, ChunkRow.worker, clock() - ChunkRow.lease_until)
        .join(EvaluationRow, same_images())
        .join(RungRow, RungRow.evaluation_id == EvaluationRow.id)
        .where(
            EvaluationRow.study_id == study_id,
            EvaluationRow.state == "running",
            RungRow.state == "open",
            ChunkRow.first_seed < EvaluationRow.first_seed + RungRow.images,
            ChunkRow.state == "leased",
            ChunkRow.lease_until <= clock() - float(seconds),
        )
        .order_by(ChunkRow.lease_until, ChunkRow.first_seed)
    )
    turns = (
        select(TurnRow.task, TurnRow.worker, clock() - TurnRow.lease_until)
        .where(
            TurnRow.study_id == study_id,
            TurnRow.worker.is_not(None),
            TurnRow.lease_until <= clock() - float(seconds),
        )
        .order_by(TurnRow.task)
    )
    with database.read() as session:
        # Two rungs that ask for one chunk find it twice.
        found = {
            (seed, worker): Abandoned(f"chunk from seed {seed}", worker or "", ago)
            for seed, worker, ago in session.execute(chunks)
        }
        return (
            *found.values(),
            *(
                Abandoned(f"turn to {task}", worker or "", ago, is_turn=True)
                for task, worker, ago in session.execute(turns)
            ),
        )


def sampled_arrays(database: Database, study_id: str, *, most: int) -> tuple[StoredArray, ...]:
    """Return the stored arrays of at most so many done chunks.

    The chunks are ordered by their identifiers, which are random: the same few each time, and
    from all over the study.
    """
    wanted = wanted_chunks(study_id).subquery()
    query = (
        select(ChunkRow.array, ChunkRow.first_seed)
        .where(
            ChunkRow.state == "done",
            ChunkRow.array.is_not(None),
            ChunkRow.id.in_(select(wanted.c.id)),
        )
        .order_by(ChunkRow.id)
        .limit(most)
    )
    with database.read() as session:
        return tuple(StoredArray(str(array), seed) for array, seed in session.execute(query))


def arrays_of(database: Database, study_id: str) -> frozenset[str]:
    """Return the digests of the stored arrays of all done chunks that a study asks for."""
    wanted = wanted_chunks(study_id).subquery()
    query = select(ChunkRow.array).where(
        ChunkRow.state == "done",
        ChunkRow.array.is_not(None),
        ChunkRow.id.in_(select(wanted.c.id)),
    )
    with database.read() as session:
        return frozenset(str(array) for array in session.scalars(query))


def versions_used(
    database: Database, study_id: str, names: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    """Return how many done chunks of a study each version of a package has made.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        names: Keys of the chunks' provenance, e.g. ``"torch"``.

    Returns:
        Chunks by name and version; a name that no chunk tells of is absent.
    """
    wanted = wanted_chunks(study_id).subquery()
    query = (
        select(ChunkRow.provenance, func.count())
        .where(
            ChunkRow.state == "done",
            ChunkRow.provenance.is_not(None),
            ChunkRow.id.in_(select(wanted.c.id)),
        )
        .group_by(ChunkRow.provenance)
    )
    found: dict[str, Counter[str]] = {}
    with database.read() as session:
        for text, chunks in session.execute(query):
            facts: dict[str, Any] = parse(str(text))
            for name in names:
                if name in facts:
                    found.setdefault(name, Counter())[str(facts[name])] += chunks
    return {name: dict(sorted(counts.items())) for name, counts in sorted(found.items())}


@dataclass(frozen=True)
class DeviceWork:
    """What one kind of device has done for a study.

    Arguments:
        device: Its name, e.g. ``NVIDIA H200``, or ``cpu``; empty where no chunk tells.
        images: Images stored that it has sampled.
        seconds: What that took, summed over workers.
        is_gpu: Whether it is a GPU.
    """

    device: str
    images: int
    seconds: float
    is_gpu: bool


def devices_used(database: Database, study_id: str) -> tuple[DeviceWork, ...]:
    """Return what each kind of device has done for a study that it has paid for, by name."""
    wanted = wanted_chunks(study_id).subquery()
    query = (
        select(
            ChunkRow.provenance,
            func.sum(ChunkRow.images),
            func.sum(ChunkRow.seconds),
        )
        .where(
            ChunkRow.state.in_(("done", "dropped")),
            ChunkRow.study_id == study_id,
            ChunkRow.id.in_(select(wanted.c.id)),
        )
        .group_by(ChunkRow.provenance)
    )
    found: dict[tuple[str, bool], list[float]] = {}
    with database.read() as session:
        for text, images, seconds in session.execute(query):
            facts: dict[str, Any] = {} if text is None else parse(str(text))
            device = str(facts.get("gpu") or str(facts.get("device", "")).partition(":")[0])
            is_gpu = "gpu" in facts or device == "cuda"
            total = found.setdefault((device, is_gpu), [0, 0.0])
            total[0] += int(images)
            total[1] += float(seconds or 0.0)
    return tuple(
        DeviceWork(device, int(images), seconds, is_gpu)
        for (device, is_gpu), (images, seconds) in sorted(found.items())
    )


def chunk_formats(database: Database, study_id: str) -> dict[int, int]:
    """Return how many chunks of a study have each layout of arrays, by its number."""
    wanted = wanted_chunks(study_id).subquery()
    query = (
        select(wanted.c.format, func.count()).group_by(wanted.c.format).order_by(wanted.c.format)
    )
    with database.read() as session:
        return {number: chunks for number, chunks in session.execute(query)}
