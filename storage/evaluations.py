"""Evaluations, their rungs, and the chunks that they ask for.

Chunks belong to nobody: evaluations of any study that need the same images under the same
measure share the row, and one that is done is used at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from skiptune.errors import StorageError
from skiptune.storage.budgets import SEARCH_BLOCK, refuse_another_proposal, refuse_more_images
from skiptune.storage.database import Database
from skiptune.storage.records import CHUNK, Chunk, Evaluation, EvaluationState, Kind, Rung, Turn
from skiptune.storage.rows import (
    chunk_of,
    describe,
    evaluation_of,
    evaluation_row,
    insert_missing,
    now,
    parse,
    rung_of,
    same_images,
    study_row,
    text_of,
)
from skiptune.storage.tables import (
    ChunkRow,
    EvaluationRow,
    MeasureRow,
    RungRow,
    ScheduleRow,
    SeriesRow,
)
from skiptune.storage.turns import check_turn

__all__ = [
    "add_evaluation",
    "chunks_of",
    "description",
    "entered_rungs",
    "evaluation",
    "evaluations",
    "find_evaluation",
    "finish_evaluation",
    "open_rungs",
    "promote",
    "ready_rungs",
    "reopen_chunks",
    "rungs",
]


def add_evaluation(
    database: Database,
    study_id: str,
    *,
    kind: Kind,
    label: str,
    block: str,
    series: Mapping[str, Any],
    measure: Mapping[str, Any],
    schedule: Mapping[str, Any],
    first_seed: int,
    images: int,
    params: Mapping[str, Any],
    turn: Turn | None = None,
) -> Evaluation:
    """Store an evaluation with its lowest rung and the chunks that nobody has asked for yet.

    A study evaluates a schedule once per block: where it has done so already, that evaluation is
    returned, whatever its kind or state.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        kind: What the evaluation is for. The study's first baseline gets number 0.
        label: Shown to people.
        block: ``"search"`` or the name of a confirm's block.
        series: How images are made (`sampling.describe`).
        measure: How they become arrays (`objectives.describe`).
        schedule: `Schedule.to_json()`.
        first_seed: A multiple of `CHUNK`.
        images: Of the lowest rung, a positive multiple of `CHUNK`.
        params: What Optuna proposed, empty otherwise.
        turn: The turn in which it was proposed; checked in the same transaction.

    Raises:
        BudgetSpentError: The study's budget holds no such proposal, or not its images.
        TurnLostError: The turn went to another worker; nothing was entered.
        StorageError: There is no such study.
        ValueError: Seeds or images are not whole chunks, or a description holds NaN or infinity.
    """
    _whole_chunks(first_seed=first_seed, images=images)
    with database.write("add_evaluation") as session:
        study = study_row(session, study_id)
        if turn is not None:
            check_turn(session, turn)
        keys = {
            "series": describe(session, SeriesRow, series),
            "measure": describe(session, MeasureRow, measure),
            "schedule": describe(session, ScheduleRow, schedule),
        }
        text = text_of(schedule)
        found = session.scalar(
            select(EvaluationRow).filter_by(study_id=study_id, block=block, **keys)
        )
        if found is not None:
            return evaluation_of(found, text)
        if kind == "proposal":
            refuse_another_proposal(session, study)
        last = session.scalar(
            select(func.max(EvaluationRow.number)).where(EvaluationRow.study_id == study_id)
        )
        first = select(EvaluationRow.id).where(
            EvaluationRow.study_id == study_id, EvaluationRow.number == 0
        )
        if kind == "baseline" and session.scalar(first) is None:
            number = 0
        else:
            number = (last or 0) + 1
        row = EvaluationRow(
            study_id=study_id,
            number=number,
            kind=kind,
            label=label,
            block=block,
            first_seed=first_seed,
            params=text_of(params),
            **keys,
        )
        session.add(row)
        session.flush()
        _add_rung(session, row, level=0, images=images)
        refuse_more_images(session, study, block)
        return evaluation_of(row, text)


def promote(database: Database, evaluation_id: str, images: int) -> Rung | None:
    """Let an evaluation go on to more images: its next rung and the chunks that are missing.

    Arguments:
        database: Where the study lives.
        evaluation_id: The evaluation; one that is complete runs again.
        images: Of the new rung, a multiple of `CHUNK` above the highest rung so far. A rung of
            exactly so many images is returned as it is.

    Returns:
        The rung, or None where the evaluation has diverged or failed meanwhile.

    Raises:
        BudgetSpentError: The study's budget does not hold these images; the rung is not entered.
        StorageError: There is no such evaluation.
        ValueError: The images are not whole chunks, or fewer than the highest rung has.
    """
    _whole_chunks(first_seed=0, images=images)
    with database.write("promote") as session:
        # The study first, as everywhere, so that no two transactions wait for each other.
        study = study_row(session, evaluation_row(session, evaluation_id).study_id)
        row = evaluation_row(session, evaluation_id, lock=True)
        held = list(
            session.scalars(
                select(RungRow)
                .where(RungRow.evaluation_id == evaluation_id)
                .order_by(RungRow.level)
            )
        )
        for rung in held:
            if rung.images == images:
                return rung_of(rung)
        if row.state in ("diverged", "failed"):
            return None
        if images < held[-1].images:
            raise ValueError(f"{images} images are fewer than the {held[-1].images} of the rung")
        row.state = "running"
        row.finished = None
        rung = _add_rung(session, row, level=held[-1].level + 1, images=images)
        refuse_more_images(session, study, row.block)
        return rung_of(rung)


def finish_evaluation(
    database: Database, evaluation_id: str, state: EvaluationState, reason: str | None = None
) -> Evaluation:
    """End an evaluation. One that has diverged or failed stays so, with its first reason.

    Raises:
        StorageError: There is no such evaluation.
        ValueError: The state is not an end.
    """
    if state == "running":
        raise ValueError("an evaluation ends complete, diverged or failed")
    with database.write("finish_evaluation") as session:
        row = evaluation_row(session, evaluation_id, lock=True)
        if row.state not in ("diverged", "failed") and row.state != state:
            row.state = state
            row.reason = reason
            row.finished = now(session)
        return evaluation_of(row, _schedule_text(session, row))


def evaluation(database: Database, evaluation_id: str) -> Evaluation:
    """Return one evaluation.

    Raises:
        StorageError: There is no such evaluation.
    """
    with database.read() as session:
        row = evaluation_row(session, evaluation_id)
        return evaluation_of(row, _schedule_text(session, row))


def evaluations(
    database: Database, study_id: str, kind: Kind | None = None, block: str | None = None
) -> tuple[Evaluation, ...]:
    """Return a study's evaluations by number, all or those of a kind and of a block."""
    query = (
        select(EvaluationRow, ScheduleRow.description)
        .join(ScheduleRow, ScheduleRow.digest == EvaluationRow.schedule)
        .where(EvaluationRow.study_id == study_id)
        .order_by(EvaluationRow.number)
    )
    if kind is not None:
        query = query.where(EvaluationRow.kind == kind)
    if block is not None:
        query = query.where(EvaluationRow.block == block)
    with database.read() as session:
        return tuple(evaluation_of(row, text) for row, text in session.execute(query))


def find_evaluation(
    database: Database, study_id: str, *, block: str, schedule: str
) -> Evaluation | None:
    """Return the evaluation of a schedule on a block of a study, None where there is none.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        block: ``"search"`` or the name of a confirm's block.
        schedule: Digest of the schedule.
    """
    query = (
        select(EvaluationRow, ScheduleRow.description)
        .join(ScheduleRow, ScheduleRow.digest == EvaluationRow.schedule)
        .filter(
            EvaluationRow.schedule == schedule,
            EvaluationRow.study_id == study_id,
            EvaluationRow.block == block,
        )
        .order_by(EvaluationRow.number)
        .limit(1)
    )
    with database.read() as session:
        found = session.execute(query).first()
    return None if found is None else evaluation_of(found[0], found[1])


def description(database: Database, key: str) -> dict[str, Any]:
    """Return the series, measure or schedule that has this digest.

    Raises:
        StorageError: There is none.
    """
    with database.read() as session:
        for column, digest in (
            (SeriesRow.description, SeriesRow.digest),
            (MeasureRow.description, MeasureRow.digest),
            (ScheduleRow.description, ScheduleRow.digest),
        ):
            text = session.scalar(select(column).where(digest == key))
            if text is not None:
                return parse(text)
    raise StorageError(
        database.name,
        expected="the digest of a stored series, measure or schedule",
        found=key,
        hint="list what a study has with `skiptune status STUDY --json`",
    )


def rungs(
    database: Database, study_id: str, *, evaluation_id: str | None = None
) -> tuple[Rung, ...]:
    """Return the rungs of a study or of one of its evaluations, by number and level."""
    query = _rungs_of(study_id)
    if evaluation_id is not None:
        query = query.where(EvaluationRow.id == evaluation_id)
    with database.read() as session:
        return tuple(rung_of(row) for row in session.scalars(query))


def entered_rungs(database: Database, study_id: str) -> tuple[int, ...]:
    """Return the images of the rungs that proposals of a study's search have entered, by level."""
    query = (
        select(func.max(RungRow.images))
        .join(EvaluationRow, EvaluationRow.id == RungRow.evaluation_id)
        .where(
            EvaluationRow.study_id == study_id,
            EvaluationRow.kind == "proposal",
            EvaluationRow.block == SEARCH_BLOCK,
        )
        .group_by(RungRow.level)
        .order_by(RungRow.level)
    )
    with database.read() as session:
        return tuple(int(images) for images in session.scalars(query))


def open_rungs(database: Database, study_id: str, *, block: str | None = None) -> tuple[Rung, ...]:
    """Return the rungs of running evaluations that have no score yet, by number and level.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        block: Only those on this block of seeds.
    """
    query = _rungs_of(study_id).where(EvaluationRow.state == "running", RungRow.state == "open")
    if block is not None:
        query = query.where(EvaluationRow.block == block)
    with database.read() as session:
        return tuple(rung_of(row) for row in session.scalars(query))


def ready_rungs(database: Database, study_id: str) -> tuple[Rung, ...]:
    """Return the open rungs of running evaluations all of whose chunks are done.

    The baseline comes first, then by number and level.
    """
    done = (
        select(func.coalesce(func.sum(ChunkRow.images), 0))
        .where(
            same_images(),
            ChunkRow.first_seed < EvaluationRow.first_seed + RungRow.images,
            ChunkRow.state == "done",
        )
        .correlate(EvaluationRow, RungRow)
        .scalar_subquery()
    )
    query = _rungs_of(study_id).where(
        EvaluationRow.state == "running", RungRow.state == "open", done == RungRow.images
    )
    with database.read() as session:
        return tuple(rung_of(row) for row in session.scalars(query))


def chunks_of(
    database: Database, evaluation_id: str, images: int | None = None
) -> tuple[Chunk, ...]:
    """Return the chunks of an evaluation's first images, in seed order.

    Arguments:
        database: Where the study lives.
        evaluation_id: The evaluation.
        images: How many images; all of its highest rung by default.

    Raises:
        StorageError: There is no such evaluation.
    """
    with database.read() as session:
        row = evaluation_row(session, evaluation_id)
        if images is None:
            images = session.scalar(
                select(func.max(RungRow.images)).where(RungRow.evaluation_id == row.id)
            )
        query = select(ChunkRow).where(*_range(row, images or 0)).order_by(ChunkRow.first_seed)
        return tuple(chunk_of(chunk) for chunk in session.scalars(query))


def reopen_chunks(database: Database, array: str) -> int:
    """Let the chunks be sampled again whose stored arrays are missing or damaged.

    The evaluations that have used them run again until the chunks are back; their scores stay.
    Those whose other chunks were dropped have their scores and wait for nothing. The images count
    as doubled.

    Arguments:
        database: Where the chunks are.
        array: Digest of the arrays that cannot be read.

    Returns:
        How many chunks were reopened.
    """
    with database.write("reopen_chunks") as session:
        lost = list(
            session.scalars(
                select(ChunkRow)
                .where(ChunkRow.array == array, ChunkRow.state == "done")
                .with_for_update()
            )
        )
        for chunk in lost:
            chunk.state = "open"
            chunk.worker = chunk.array = chunk.committed = None
            chunk.attempts = 0
            chunk.doubled_images += chunk.images
            users = session.execute(
                select(EvaluationRow, RungRow)
                .join(RungRow, RungRow.evaluation_id == EvaluationRow.id)
                .where(
                    EvaluationRow.state.in_(("running", "complete")),
                    EvaluationRow.series == chunk.series,
                    EvaluationRow.measure == chunk.measure,
                    EvaluationRow.schedule == chunk.schedule,
                    EvaluationRow.first_seed <= chunk.first_seed,
                    EvaluationRow.first_seed + RungRow.images > chunk.first_seed,
                )
            )
            for row, rung in users:
                dropped = select(ChunkRow.id).where(
                    *_range(row, rung.images), ChunkRow.state == "dropped"
                )
                if session.scalar(dropped.limit(1)) is not None:
                    continue
                row.state, row.finished = "running", None
                rung.state, rung.completed = "open", None
        return len(lost)


def _whole_chunks(*, first_seed: int, images: int) -> None:
    if images <= 0 or images % CHUNK or first_seed < 0 or first_seed % CHUNK:
        raise ValueError(
            f"seeds come in whole chunks of {CHUNK}, found {images} images from seed {first_seed}"
        )


def _schedule_text(session: Session, row: EvaluationRow) -> str:
    return session.get_one(ScheduleRow, row.schedule).description


def _rungs_of(study_id: str) -> Select[RungRow]:
    return (
        select(RungRow)
        .join(EvaluationRow, EvaluationRow.id == RungRow.evaluation_id)
        .where(EvaluationRow.study_id == study_id)
        .order_by(EvaluationRow.number, RungRow.level)
    )


def _range(row: EvaluationRow, images: int) -> tuple[Any, ...]:
    return (
        ChunkRow.series == row.series,
        ChunkRow.measure == row.measure,
        ChunkRow.schedule == row.schedule,
        ChunkRow.first_seed >= row.first_seed,
        ChunkRow.first_seed < row.first_seed + images,
    )


def _add_rung(session: Session, row: EvaluationRow, *, level: int, images: int) -> RungRow:
    rung = RungRow(evaluation_id=row.id, level=level, images=images)
    session.add(rung)
    session.flush()
    keys = {"series": row.series, "measure": row.measure, "schedule": row.schedule}
    seeds = range(row.first_seed, row.first_seed + images, CHUNK)
    insert_missing(
        session, ChunkRow, [{**keys, "first_seed": seed, "images": CHUNK} for seed in seeds]
    )
    # Whoever asks for a poisoned chunk anew (another study, perhaps on another machine) gives it
    # three more leases; what was dropped to save space is sampled again.
    session.execute(
        update(ChunkRow)
        .where(*_range(row, images), ChunkRow.state.in_(("poisoned", "dropped")))
        .values(state="open", attempts=0, reason=None)
        .execution_options(synchronize_session=False)
    )
    return rung
