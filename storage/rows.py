"""Between rows and records, and the few statements that several modules share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from skiptune.canonical import digest
from skiptune.errors import StorageError
from skiptune.storage.records import (
    Artifact,
    Budget,
    Chunk,
    ChunkState,
    Evaluation,
    EvaluationState,
    Kind,
    Launch,
    Rung,
    RungState,
    Score,
    SpentBlock,
    Study,
    StudyState,
)
from skiptune.storage.tables import (
    ArtifactRow,
    ChunkRow,
    EvaluationRow,
    LaunchRow,
    MeasureRow,
    RungRow,
    ScheduleRow,
    ScoreRow,
    SeriesRow,
    SpentSeedsRow,
    StudyRow,
    Table,
    clock,
)

__all__ = [
    "artifact_of",
    "chunk_of",
    "describe",
    "evaluation_of",
    "evaluation_row",
    "insert_missing",
    "launch_of",
    "moment",
    "now",
    "parse",
    "rung_of",
    "same_images",
    "score_of",
    "spent_of",
    "study_of",
    "study_row",
    "text_of",
]


def text_of(value: Mapping[str, Any]) -> str:
    """Return the JSON text of plain data; floats keep every bit (shortest repr, read back)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse(text: str) -> dict[str, Any]:
    """Return the data of `text_of`."""
    return cast(dict[str, Any], json.loads(text))


def moment(seconds: float | None) -> datetime | None:
    """Return a time of the database as UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def study_of(row: StudyRow) -> Study:
    """Return the record of a study."""
    return Study(
        id=row.id,
        name=row.name,
        spec=parse(row.spec),
        meaning=parse(row.meaning),
        state=cast(StudyState, row.state),
        created=datetime.fromtimestamp(row.created, UTC),
        files=tuple(json.loads(row.files)),
        board=parse(row.board),
        budget=Budget(row.most_evaluations, row.most_images, row.most_seconds),
    )


def evaluation_of(row: EvaluationRow, schedule: str) -> Evaluation:
    """Return the record of an evaluation; `schedule` is the text of its schedule."""
    return Evaluation(
        id=row.id,
        study_id=row.study_id,
        number=row.number,
        kind=cast(Kind, row.kind),
        label=row.label,
        block=row.block,
        series=row.series,
        measure=row.measure,
        schedule=row.schedule,
        schedule_json=parse(schedule),
        first_seed=row.first_seed,
        params=parse(row.params),
        state=cast(EvaluationState, row.state),
        reason=row.reason,
        created=datetime.fromtimestamp(row.created, UTC),
        finished=moment(row.finished),
    )


def rung_of(row: RungRow) -> Rung:
    """Return the record of a rung."""
    return Rung(
        id=row.id,
        evaluation_id=row.evaluation_id,
        level=row.level,
        images=row.images,
        state=cast(RungState, row.state),
        created=datetime.fromtimestamp(row.created, UTC),
        completed=moment(row.completed),
    )


def chunk_of(row: ChunkRow) -> Chunk:
    """Return the record of a chunk."""
    return Chunk(
        id=row.id,
        series=row.series,
        measure=row.measure,
        schedule=row.schedule,
        first_seed=row.first_seed,
        images=row.images,
        state=cast(ChunkState, row.state),
        study_id=row.study_id,
        worker=row.worker,
        fence=row.fence,
        lease_until=moment(row.lease_until),
        attempts=row.attempts,
        seconds=row.seconds,
        nfe=row.nfe,
        array=row.array,
        provenance=None if row.provenance is None else parse(row.provenance),
        reason=row.reason,
        doubled_images=row.doubled_images,
        committed=moment(row.committed),
        format=row.format,
    )


def score_of(row: ScoreRow) -> Score:
    """Return the record of a score."""
    return Score(
        id=row.id,
        evaluation_id=row.evaluation_id,
        level=row.level,
        place=row.place,
        metric=row.metric,
        reference=row.reference,
        images=row.images,
        value=row.value,
        standard_error=row.standard_error,
        raw=row.raw,
        difference=row.difference,
        difference_error=row.difference_error,
        baseline_images=row.baseline_images,
        created=datetime.fromtimestamp(row.created, UTC),
    )


def spent_of(row: SpentSeedsRow) -> SpentBlock:
    """Return the record of a spent block."""
    return SpentBlock(
        study_id=row.study_id,
        block=row.block,
        number=row.number,
        first_seed=row.first_seed,
        images=row.images,
        alpha=row.alpha,
    )


def artifact_of(row: ArtifactRow) -> Artifact:
    """Return the record of an artifact."""
    return Artifact(
        digest=row.digest,
        kind=row.kind,
        bytes=row.bytes,
        name=row.name,
        created=datetime.fromtimestamp(row.created, UTC),
    )


def launch_of(row: LaunchRow) -> Launch:
    """Return the record of a launch."""
    return Launch(
        id=row.id,
        study_id=row.study_id,
        executor=row.executor,
        place=row.place,
        job=row.job,
        workers=row.workers,
        created=datetime.fromtimestamp(row.created, UTC),
    )


def insert_missing(
    session: Session, table: type[Table], values: Sequence[Mapping[str, Any]]
) -> None:
    """Insert the rows whose keys do not exist yet; another writer may be doing the same."""
    if not values:
        return
    if session.get_bind().dialect.name == "postgresql":
        session.execute(postgresql.insert(table).on_conflict_do_nothing(), list(values))
    else:
        session.execute(sqlite.insert(table).on_conflict_do_nothing(), list(values))


def describe(
    session: Session,
    table: type[SeriesRow] | type[MeasureRow] | type[ScheduleRow],
    description: Mapping[str, Any],
) -> str:
    """Store a description under its canonical digest, and return that."""
    key = digest(description)
    insert_missing(session, table, [{"digest": key, "description": text_of(description)}])
    return key


def study_row(session: Session, study_id: str, *, lock: bool = True) -> StudyRow:
    """Return a study's row, locked until the transaction ends where locks are by row.

    Arguments:
        session: A writing transaction, or with `lock` False any.
        study_id: The study.
        lock: False only reads the row.

    Raises:
        StorageError: There is no such study.
    """
    # Not FOR UPDATE: that would also wait for every row being inserted that refers to the study.
    query = select(StudyRow).where(StudyRow.id == study_id)
    row = session.scalar(query.with_for_update(key_share=True) if lock else query)
    if row is None:
        raise StorageError(
            f"study {study_id}",
            expected="a study of this database",
            found="none with this identifier",
            hint="list the studies with `skiptune status`",
        )
    return row


def evaluation_row(session: Session, evaluation_id: str, *, lock: bool = False) -> EvaluationRow:
    """Return an evaluation's row, with `lock` locked until the transaction ends.

    Raises:
        StorageError: There is no such evaluation.
    """
    query = select(EvaluationRow).where(EvaluationRow.id == evaluation_id)
    row = session.scalar(query.with_for_update() if lock else query)
    if row is None:
        raise StorageError(
            f"evaluation {evaluation_id}",
            expected="an evaluation of this database",
            found="none with this identifier",
            hint="list the evaluations with `skiptune status STUDY`",
        )
    return row


def now(session: Session) -> float:
    """Return the time by the database's clock, in seconds since 1970 UTC."""
    return float(session.execute(select(clock())).scalar_one())


def same_images() -> ColumnElement[bool]:
    """The chunks of an evaluation's series, measure and schedule from its first seed on."""
    return and_(
        ChunkRow.series == EvaluationRow.series,
        ChunkRow.measure == EvaluationRow.measure,
        ChunkRow.schedule == EvaluationRow.schedule,
        ChunkRow.first_seed >= EvaluationRow.first_seed,
    )
