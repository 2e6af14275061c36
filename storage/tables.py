"""Our tables, beside Optuna's in one database: names start with `skiptune_`, keys are our own.

No foreign key leads into Optuna's tables: with one, `optuna.delete_study` would return normally
and delete nothing. Identifiers are uuid4 hex texts, or the SHA-256 of a content. Times are
seconds since 1970 UTC by the database's own clock (`clock()`), so that workers whose clocks
differ agree about leases. Only portable column types are used (SQLite, PostgreSQL).
"""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import (
    BigInteger,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

__all__ = [
    "ArtifactRow",
    "ChunkRow",
    "DatabaseRow",
    "EvaluationRow",
    "LaunchRow",
    "MeasureRow",
    "RungRow",
    "ScheduleRow",
    "ScoreRow",
    "SeriesRow",
    "SpentSeedsRow",
    "StudyRow",
    "Table",
    "TurnRow",
    "clock",
]


class clock(FunctionElement[float]):  # noqa: N801 - reads as the SQL function that it is
    """Seconds since 1970 UTC by the database's clock, at millisecond resolution or better."""

    name = "clock"
    type = Double()
    inherit_cache = True


@compiles(clock, "sqlite")
def _clock_sqlite(element: clock, compiler: SQLCompiler, **_: Any) -> str:
    # unixepoch('subsec') needs SQLite 3.42; 2440587.5 is the Julian day of 1970-01-01.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _clock_postgresql(element: clock, compiler: SQLCompiler, **_: Any) -> str:
    # Not now(): that is the start of the transaction, which may have waited for a lock.
    return "extract(epoch from clock_timestamp())::double precision"


def _identifier() -> str:
    return uuid.uuid4().hex


class Table(DeclarativeBase):
    """Base of our tables; its metadata holds ours alone."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class DatabaseRow(Table):
    """The database's own identity, one row: what the marker in its artifact store names."""

    __tablename__ = "skiptune_database"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=_identifier)
    created: Mapped[float] = mapped_column(Double, default=clock())


class StudyRow(Table):
    """A study: its spec as last given, and the part of it that may never change.

    `files` and `board` are what a worker on another machine, and whoever writes Optuna's studies,
    need of it: contents of the files that the spec names, and what Optuna is asked for. A budget
    of null is none.
    """

    __tablename__ = "skiptune_studies"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=_identifier)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    spec: Mapped[str] = mapped_column(Text)
    meaning: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), default="running")
    created: Mapped[float] = mapped_column(Double, default=clock())
    files: Mapped[str] = mapped_column(Text, default="[]", server_default="[]")
    board: Mapped[str] = mapped_column(Text, default="{}", server_default="{}")
    most_evaluations: Mapped[int | None] = mapped_column(Integer)
    most_images: Mapped[int | None] = mapped_column(BigInteger)
    most_seconds: Mapped[float | None] = mapped_column(Double)


class _Description:
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    description: Mapped[str] = mapped_column(Text)


class SeriesRow(_Description, Table):
    """How images are made, apart from the schedule."""

    __tablename__ = "skiptune_series"


class MeasureRow(_Description, Table):
    """How images become per-image arrays."""

    __tablename__ = "skiptune_measures"


class ScheduleRow(_Description, Table):
    """All scales over skips and noise levels."""

    __tablename__ = "skiptune_schedules"


class EvaluationRow(Table):
    """One schedule of one study on one block of seeds.

    `projected` is 1 once Optuna has been told how it ended.
    """

    __tablename__ = "skiptune_evaluations"
    __table_args__ = (
        UniqueConstraint("study_id", "block", "series", "measure", "schedule"),
        UniqueConstraint("study_id", "number"),
        Index(None, "study_id", "state"),
        Index(None, "study_id", "kind", "block"),
        Index(None, "series", "measure", "schedule"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=_identifier)
    study_id: Mapped[str] = mapped_column(ForeignKey("skiptune_studies.id", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(16))
    label: Mapped[str] = mapped_column(Text)
    block: Mapped[str] = mapped_column(String(64))
    series: Mapped[str] = mapped_column(ForeignKey("skiptune_series.digest"))
    measure: Mapped[str] = mapped_column(ForeignKey("skiptune_measures.digest"))
    schedule: Mapped[str] = mapped_column(ForeignKey("skiptune_schedules.digest"))
    first_seed: Mapped[int] = mapped_column(BigInteger)
    params: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), default="running")
    reason: Mapped[str | None] = mapped_column(Text)
    created: Mapped[float] = mapped_column(Double, default=clock())
    finished: Mapped[float | None] = mapped_column(Double)
    projected: Mapped[int] = mapped_column(Integer, default=0, server_default="0")


class RungRow(Table):
    """A number of images at which an evaluation is compared with others."""

    __tablename__ = "skiptune_rungs"
    __table_args__ = (
        UniqueConstraint("evaluation_id", "level"),
        UniqueConstraint("evaluation_id", "images"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=_identifier)
    evaluation_id: Mapped[str] = mapped_column(
        ForeignKey("skiptune_evaluations.id", ondelete="CASCADE")
    )
    level: Mapped[int] = mapped_column(Integer)
    images: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16), default="open")
    created: Mapped[float] = mapped_column(Double, default=clock())
    completed: Mapped[float | None] = mapped_column(Double)


class ChunkRow(Table):
    """Consecutive image seeds of one series and schedule under one measure.

    Shared by all evaluations and studies that need it, so no image is sampled twice. `study_id`
    is the study in whose name it was last claimed: the one that pays for it. `format` numbers the
    layout of the arrays: who does not know it does not claim the chunk. `doubled_fence` is the
    last fence whose images were counted in `doubled_images`. `renewed` is when the lease was last
    taken or renewed.
    """

    __tablename__ = "skiptune_chunks"
    __table_args__ = (
        UniqueConstraint("series", "measure", "schedule", "first_seed"),
        Index(None, "study_id", "state"),
        Index(None, "array"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=_identifier)
    series: Mapped[str] = mapped_column(ForeignKey("skiptune_series.digest"))
    measure: Mapped[str] = mapped_column(ForeignKey("skiptune_measures.digest"))
    schedule: Mapped[str] = mapped_column(ForeignKey("skiptune_schedules.digest"))
    first_seed: Mapped[int] = mapped_column(BigInteger)
    images: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16), default="open")
    study_id: Mapped[str | None] = mapped_column(
        ForeignKey("skiptune_studies.id", ondelete="SET NULL")
    )
    worker: Mapped[str | None] = mapped_column(Text)
    fence: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[float | None] = mapped_column(Double)
    renewed: Mapped[float | None] = mapped_column(Double)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    seconds: Mapped[float | None] = mapped_column(Double)
    nfe: Mapped[float | None] = mapped_column(Double)
    array: Mapped[str | None] = mapped_column(String(64))
    provenance: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    doubled_images: Mapped[int] = mapped_column(Integer, default=0)
    doubled_fence: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    format: Mapped[int] = mapped_column(Integer, default=1, server_default="1")
    committed: Mapped[float | None] = mapped_column(Double)


class ScoreRow(Table):
    """One metric of one rung of an evaluation, with its paired difference to the baseline.

    `place` says what it is for: 0 is what the search decides on, see `records`. `projected` is 1
    once the rung's Optuna study holds it; other places go with place 0.
    """

    __tablename__ = "skiptune_scores"
    __table_args__ = (
        UniqueConstraint("evaluation_id", "level", "metric", "reference"),
        Index(
            "ix_skiptune_scores_unprojected",
            "evaluation_id",
            sqlite_where=text("projected = 0"),
            postgresql_where=text("projected = 0"),
        ),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=_identifier)
    evaluation_id: Mapped[str] = mapped_column(
        ForeignKey("skiptune_evaluations.id", ondelete="CASCADE")
    )
    level: Mapped[int] = mapped_column(Integer)
    place: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    metric: Mapped[str] = mapped_column(String(128))
    reference: Mapped[str] = mapped_column(String(64))
    images: Mapped[int] = mapped_column(Integer)
    value: Mapped[float] = mapped_column(Double)
    standard_error: Mapped[float] = mapped_column(Double)
    raw: Mapped[float | None] = mapped_column(Double)
    difference: Mapped[float | None] = mapped_column(Double)
    difference_error: Mapped[float | None] = mapped_column(Double)
    baseline_images: Mapped[int | None] = mapped_column(Integer)
    created: Mapped[float] = mapped_column(Double, default=clock())
    projected: Mapped[int] = mapped_column(Integer, default=0, server_default="0")


class SpentSeedsRow(Table):
    """A range of seeds that a confirm of a study has seen, so that none sees it again."""

    __tablename__ = "skiptune_spent_seeds"
    __table_args__ = (
        UniqueConstraint("study_id", "block"),
        UniqueConstraint("study_id", "number"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=_identifier)
    study_id: Mapped[str] = mapped_column(ForeignKey("skiptune_studies.id", ondelete="CASCADE"))
    block: Mapped[str] = mapped_column(String(64))
    number: Mapped[int] = mapped_column(Integer)
    first_seed: Mapped[int] = mapped_column(BigInteger)
    images: Mapped[int] = mapped_column(Integer)
    alpha: Mapped[float] = mapped_column(Double)
    created: Mapped[float] = mapped_column(Double, default=clock())


class ArtifactRow(Table):
    """A stored file that is not a chunk's arrays, by the hash of its bytes."""

    __tablename__ = "skiptune_artifacts"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str] = mapped_column(Text)
    created: Mapped[float] = mapped_column(Double, default=clock())


class TurnRow(Table):
    """A lease on a task of a study that one worker does at a time, such as asking Optuna."""

    __tablename__ = "skiptune_turns"

    study_id: Mapped[str] = mapped_column(
        ForeignKey("skiptune_studies.id", ondelete="CASCADE"), primary_key=True
    )
    task: Mapped[str] = mapped_column(String(32), primary_key=True)
    worker: Mapped[str | None] = mapped_column(Text)
    fence: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[float | None] = mapped_column(Double)


class LaunchRow(Table):
    """Workers that were started together: by whom, and the name under which to ask for them."""

    __tablename__ = "skiptune_launches"
    __table_args__ = (UniqueConstraint("executor", "place", "job"), Index(None, "study_id"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=_identifier)
    study_id: Mapped[str] = mapped_column(ForeignKey("skiptune_studies.id", ondelete="CASCADE"))
    executor: Mapped[str] = mapped_column(String(16))
    place: Mapped[str] = mapped_column(String(255))
    job: Mapped[str] = mapped_column(String(255))
    workers: Mapped[int] = mapped_column(Integer)
    created: Mapped[float] = mapped_column(Double, default=clock())
