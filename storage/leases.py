"""Who samples which chunk: leases by the database's clock, with a fencing number.

A claim gives a chunk to one worker until its lease ends. A worker that dies gives nothing back:
its lease expires and the next claim takes the chunk. A worker that was only slow learns at its
commit that it has lost (`LeaseLostError`): the chunk's fence has moved on, the images that it
made are counted as doubled, and nothing of it is stored.

References:
    M. Kleppmann, How to do distributed locking, 2016,
    https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html (fencing numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import and_, case, column, or_, select, table, update
from sqlalchemy.orm import Session

from skiptune.errors import LeaseLostError
from skiptune.storage.budgets import SEARCH_BLOCK, SLOPES_BLOCK, seconds_spent
from skiptune.storage.database import REVISIONS, VERSION_TABLE, Database
from skiptune.storage.poisoning import poison_chunk
from skiptune.storage.records import CHUNK_FORMAT, LOST_LEASES, Claim, Kind, Lease
from skiptune.storage.rows import parse, same_images, text_of
from skiptune.storage.tables import (
    ChunkRow,
    EvaluationRow,
    MeasureRow,
    RungRow,
    ScheduleRow,
    SeriesRow,
    StudyRow,
    clock,
)

__all__ = [
    "Claim",
    "Lease",
    "break_lease",
    "claim_chunk",
    "commit_chunk",
    "leases",
    "poison",
    "release",
    "renew",
]


def claim_chunk(database: Database, study_id: str, *, worker: str, seconds: float) -> Claim | None:
    """Lease the next chunk of a study: the baseline's first, then by evaluation, then by seed.

    A worker has one chunk at a time: one that holds a chunk, because it never heard that its last
    claim had gone through, is given that one. Chunks whose lease has expired are claimed again;
    the third time a chunk is found lost it is poisoned instead, and the evaluations that need it
    fail with the reason.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        worker: Name of the worker, unique among those alive.
        seconds: Length of the lease.

    Returns:
        The claim, or None: every chunk is done or held; the study is paused or stopped; its
        seconds are spent; or this version may not write here, because the schema is newer or the
        chunks have another format.
    """
    expired = and_(ChunkRow.state == "leased", ChunkRow.lease_until <= clock())
    own = and_(ChunkRow.state == "leased", ChunkRow.worker == worker)
    version = table(VERSION_TABLE, column("version_num"))
    # Three tables are joined. What else is asked is a subquery: a server that plans eight joined
    # tables anew at each claim spends ten times as long on the plan as on the rows.
    query = (
        select(
            ChunkRow,
            EvaluationRow,
            *(
                select(of.description).where(of.digest == digest).scalar_subquery()
                for of, digest in (
                    (SeriesRow, EvaluationRow.series),
                    (MeasureRow, EvaluationRow.measure),
                    (ScheduleRow, EvaluationRow.schedule),
                )
            ),
        )
        .join(EvaluationRow, same_images())
        .join(RungRow, RungRow.evaluation_id == EvaluationRow.id)
        .where(
            EvaluationRow.study_id == study_id,
            EvaluationRow.state == "running",
            select(StudyRow.id)
            .where(StudyRow.id == study_id, StudyRow.state.not_in(("paused", "stopped")))
            .exists(),
            RungRow.state == "open",
            ChunkRow.first_seed < EvaluationRow.first_seed + RungRow.images,
            or_(ChunkRow.state == "open", expired, own),
            ChunkRow.format == CHUNK_FORMAT,
            select(version).where(version.c.version_num == REVISIONS[-1]).exists(),
        )
        .order_by(
            case((own, 0), else_=1),
            case((EvaluationRow.kind == "baseline", 0), else_=1),
            EvaluationRow.number,
            ChunkRow.first_seed,
        )
        .limit(1)
        .with_for_update(of=ChunkRow, skip_locked=True)
    )
    with database.write("claim_chunk") as session:
        if _seconds_are_spent(session, study_id):
            query = query.where(EvaluationRow.block.not_in((SEARCH_BLOCK, SLOPES_BLOCK)))
        while (found := session.execute(query).first()) is not None:
            chunk, evaluation, series, measure, schedule = found
            held = chunk.state == "leased" and chunk.worker == worker
            if chunk.state == "leased" and not held and chunk.attempts >= LOST_LEASES:
                poison_chunk(
                    session,
                    chunk,
                    f"{chunk.attempts} leases of this chunk were lost, the last by {chunk.worker}",
                )
                continue
            chunk.state = "leased"
            chunk.worker = worker
            chunk.study_id = study_id
            chunk.fence += 1
            chunk.attempts += not held
            chunk.lease_until = _in(seconds)
            chunk.renewed = _in(0.0)
            return Claim(
                chunk_id=chunk.id,
                fence=chunk.fence,
                worker=worker,
                study_id=study_id,
                evaluation_id=evaluation.id,
                number=evaluation.number,
                kind=cast(Kind, evaluation.kind),
                label=evaluation.label,
                series=parse(series),
                measure=parse(measure),
                schedule=parse(schedule),
                first_seed=chunk.first_seed,
                images=chunk.images,
                opens_evaluation=chunk.first_seed == evaluation.first_seed,
            )
    return None


def renew(database: Database, claim: Claim, *, seconds: float) -> None:
    """Let a lease end `seconds` from now.

    A lease that has expired is renewed too, as long as nobody has taken the chunk.

    Raises:
        LeaseLostError: Somebody has.
    """
    with database.write("renew") as session:
        renewed = session.scalar(
            update(ChunkRow)
            .where(
                ChunkRow.id == claim.chunk_id,
                ChunkRow.fence == claim.fence,
                ChunkRow.state == "leased",
            )
            .values(lease_until=_in(seconds), renewed=_in(0.0))
            .returning(ChunkRow.id)
            .execution_options(synchronize_session=False)
        )
        if renewed is None:
            raise _lost(claim)


def release(database: Database, claim: Claim) -> bool:
    """Hand a chunk back unsampled: it is open at once, and this lease does not count as lost.

    Returns:
        Whether the claim still held; if not, there was nothing to hand back.
    """
    with database.write("release") as session:
        chunk = _held(session, claim)
        if chunk is None:
            return False
        chunk.state = "open"
        chunk.worker = None
        chunk.lease_until = None
        chunk.attempts -= 1
        return True


def commit_chunk(
    database: Database,
    claim: Claim,
    *,
    array: str,
    seconds: float,
    nfe: float,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Name the stored arrays of a chunk: from now on it is done, for everyone.

    The arrays must be in the store before. Said again with the same arrays, nothing happens.

    Arguments:
        database: Where the study lives.
        claim: The claim of the worker that sampled them.
        array: Digest of the stored arrays.
        seconds: What sampling took.
        nfe: Network images per image made.
        provenance: Device and versions, plain data.

    Raises:
        LeaseLostError: The chunk went to another worker; the images are counted as doubled.
    """
    with database.write("commit_chunk") as session:
        chunk = _held(session, claim)
        if chunk is not None:
            chunk.state = "done"
            chunk.array = array
            chunk.seconds = float(seconds)
            chunk.nfe = float(nfe)
            chunk.provenance = None if provenance is None else text_of(provenance)
            chunk.reason = None
            chunk.committed = _in(0.0)
            chunk.lease_until = None
            return
        row = _row(session, claim)
        if row is not None and (row.state, row.fence, row.array) == ("done", claim.fence, array):
            return
        if row is not None and row.doubled_fence < claim.fence:
            # Said twice, because the first answer was lost, the images are counted once.
            row.doubled_images += claim.images
            row.doubled_fence = claim.fence
    raise _lost(claim)


def poison(database: Database, claim: Claim, reason: str) -> None:
    """Give a chunk up: nobody samples it again, and the evaluations that need it fail.

    Arguments:
        database: Where the study lives.
        claim: The claim of the worker that could not sample it.
        reason: Shown to people, kept with the chunk and the evaluations.

    Raises:
        LeaseLostError: The chunk went to another worker meanwhile.
    """
    with database.write("poison") as session:
        chunk = _held(session, claim)
        if chunk is None:
            row = _row(session, claim)
            if row is not None and (row.state, row.fence) == ("poisoned", claim.fence):
                return
            raise _lost(claim)
        poison_chunk(session, chunk, reason)


def leases(database: Database, study_id: str) -> tuple[Lease, ...]:
    """Return the leases on chunks that were claimed for a study, the first to end first."""
    query = (
        select(
            ChunkRow.id,
            ChunkRow.fence,
            ChunkRow.worker,
            ChunkRow.first_seed,
            ChunkRow.lease_until,
            clock(),
        )
        .where(ChunkRow.study_id == study_id, ChunkRow.state == "leased")
        .order_by(ChunkRow.lease_until, ChunkRow.first_seed)
    )
    with database.read() as session:
        return tuple(
            Lease(
                chunk_id=key,
                fence=fence,
                worker=worker or "",
                first_seed=first_seed,
                remaining=(until or time) - time,
            )
            for key, fence, worker, first_seed, until, time in session.execute(query)
        )


def break_lease(database: Database, lease: Lease) -> bool:
    """End the lease of a worker that is known to be dead, as if its time had run out.

    It counts as lost. The caller is sure: a worker that lives loses what it is sampling.

    Returns:
        Whether the lease was still there.
    """
    with database.write("break_lease") as session:
        broken = session.scalar(
            update(ChunkRow)
            .where(
                ChunkRow.id == lease.chunk_id,
                ChunkRow.fence == lease.fence,
                ChunkRow.state == "leased",
            )
            .values(lease_until=clock())
            .returning(ChunkRow.id)
            .execution_options(synchronize_session=False)
        )
        return broken is not None


def _in(seconds: float) -> Any:
    """So many seconds from now, told by the statement that stores it: one question less."""
    return clock() + float(seconds)


def _seconds_are_spent(session: Session, study_id: str) -> bool:
    most = session.scalar(select(StudyRow.most_seconds).where(StudyRow.id == study_id))
    return most is not None and seconds_spent(session, study_id) >= most


def _row(session: Session, claim: Claim) -> ChunkRow | None:
    return session.scalar(select(ChunkRow).where(ChunkRow.id == claim.chunk_id).with_for_update())


def _held(session: Session, claim: Claim) -> ChunkRow | None:
    """The chunk's row, locked, if the claim is the last one made and still stands."""
    row = _row(session, claim)
    if row is None or row.fence != claim.fence or row.state != "leased":
        return None
    return row


def _lost(claim: Claim) -> LeaseLostError:
    return LeaseLostError(
        f"chunk of {claim.images} images from seed {claim.first_seed}",
        expected=f"the lease of {claim.worker} (fence {claim.fence})",
        found="a chunk that was handed back or has gone to another worker",
        hint="nothing to do: the images are dropped and counted as doubled; if it happens"
        " often, leases are too short for the time a chunk takes",
    )
