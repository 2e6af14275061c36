"""What may go: a whole study, and arrays that no decision will need again.

Rows go first and files after: a crash in between leaves files that no row names, which garbage
collection finds, never rows that name a file which is gone.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, text
from sqlalchemy.orm import Session, aliased

from skiptune.storage.database import Database
from skiptune.storage.ranking import violates
from skiptune.storage.rows import same_images, study_row
from skiptune.storage.tables import (
    ArtifactRow,
    ChunkRow,
    EvaluationRow,
    RungRow,
    ScoreRow,
    StudyRow,
)

__all__ = ["BEST_KEPT", "delete_study", "drop_arrays", "droppable_arrays", "named_files"]

BEST_KEPT = 10
"""Proposals of each study whose arrays are kept: those with most images, then the best."""

_TOGETHER: Final = 500  # digests in one statement: PostgreSQL takes 65,535 values at most


def delete_study(database: Database, study_id: str) -> tuple[str, ...]:
    """Delete a study's rows, and the chunks that no other study needs.

    Returns:
        Digests of the arrays that no row names any more.

    Raises:
        StorageError: There is no such study.
    """
    with database.write("delete_study") as session:
        study_row(session, study_id)
        _let_nobody_ask(session)
        session.execute(delete(StudyRow).where(StudyRow.id == study_id))
        unused = ~_needed()
        arrays = set(
            session.scalars(select(ChunkRow.array).where(unused, ChunkRow.array.is_not(None)))
        )
        session.execute(
            delete(ChunkRow).where(unused).execution_options(synchronize_session=False)
        )
        return _unnamed(session, arrays)


def droppable_arrays(database: Database) -> tuple[int, int]:
    """Return how many chunks `drop_arrays` would drop, and their images."""
    with database.read() as session:
        rows = _droppable(session)
        return len(rows), sum(row.images for row in rows)


def drop_arrays(database: Database, *, dry_run: bool = False) -> tuple[str, ...]:
    """Give up the arrays that no decision will need again; their hashes and scores stay.

    Kept are those of every baseline, confirm and control, of the `BEST_KEPT` best proposals of
    each study, and of whatever is still being evaluated. A chunk that is asked for again is
    sampled again.

    Arguments:
        database: Whose rows count.
        dry_run: Only look which they are.

    Returns:
        Digests of the arrays that no row needs any more.
    """
    if dry_run:
        with database.read() as session:
            rows = _droppable(session)
            arrays = {row.array for row in rows}
            return _unnamed(session, arrays, leaving={row.id for row in rows})
    with database.write("drop_arrays") as session:
        _let_nobody_ask(session)
        rows = _droppable(session)
        for row in rows:
            row.state = "dropped"
        session.flush()
        return _unnamed(session, {row.array for row in rows if row.array is not None})


def named_files(database: Database) -> frozenset[str]:
    """Return the digests of all stored files that rows name and that are not dropped."""
    with database.read() as session:
        arrays = session.scalars(
            select(ChunkRow.array).where(ChunkRow.array.is_not(None), ChunkRow.state != "dropped")
        )
        named = {array for array in arrays if array is not None}
        return frozenset(named | set(session.scalars(select(ArtifactRow.digest))))


def _let_nobody_ask(session: Session) -> None:
    """Keep others from asking for chunks until the transaction ends.

    An evaluation that is being entered finds its chunks stored and asks for nothing; before it is
    committed we do not see it, and would take away what it counts on. SQLite has one writer.
    """
    if session.get_bind().dialect.name == "postgresql":
        # In this mode because claims lock rows before they write: a weaker one would let them.
        session.execute(text(f"LOCK TABLE {ChunkRow.__tablename__} IN EXCLUSIVE MODE"))


def _droppable(session: Session) -> list[ChunkRow]:
    kept = or_(
        EvaluationRow.kind != "proposal",
        EvaluationRow.state == "running",
        EvaluationRow.id.in_(_best(session)),
    )
    query = select(ChunkRow).where(ChunkRow.state == "done", ~_needed(kept))
    return list(session.scalars(query))


def _best(session: Session) -> list[str]:
    """Return the evaluations that lead each study."""
    higher = aliased(ScoreRow)
    top = select(func.max(higher.level)).where(higher.evaluation_id == EvaluationRow.id)
    place = func.row_number().over(
        partition_by=EvaluationRow.study_id,
        order_by=(ScoreRow.level.desc(), ScoreRow.difference, EvaluationRow.number),
    )
    ranked = (
        select(EvaluationRow.id, place.label("place"))
        .join(ScoreRow, ScoreRow.evaluation_id == EvaluationRow.id)
        .where(
            EvaluationRow.kind == "proposal",
            EvaluationRow.state.not_in(("diverged", "failed")),
            ScoreRow.difference.is_not(None),
            ScoreRow.place == 0,
            ~violates(ScoreRow.level),
            ScoreRow.level == top.correlate(EvaluationRow).scalar_subquery(),
        )
        .subquery()
    )
    return list(session.scalars(select(ranked.c.id).where(ranked.c.place <= BEST_KEPT)))


def _needed(which: ColumnElement[bool] | None = None) -> ColumnElement[bool]:
    """Whether a rung of some evaluation, or of one of those that count, asks for a chunk."""
    rung = exists().where(
        same_images(),
        RungRow.evaluation_id == EvaluationRow.id,
        ChunkRow.first_seed < EvaluationRow.first_seed + RungRow.images,
        *(() if which is None else (which,)),
    )
    return rung.correlate(ChunkRow)


def _unnamed(
    session: Session, arrays: set[str | None], *, leaving: Set[str] = frozenset()
) -> tuple[str, ...]:
    """Return those arrays that no chunk needs but `leaving`; equal arrays are stored once."""
    left = {array for array in arrays if array is not None}
    names = sorted(left)
    for first in range(0, len(names), _TOGETHER):
        query = select(ChunkRow.id, ChunkRow.array).where(
            ChunkRow.array.in_(names[first : first + _TOGETHER]), ChunkRow.state != "dropped"
        )
        left.difference_update(
            array for key, array in session.execute(query) if key not in leaving
        )
    return tuple(sorted(left))
