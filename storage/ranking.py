"""Who leads a rung: read in order from the database, so that ten thousand rows stay there.

Who violates a constraint at a rung takes no place there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import aliased

from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.records import CONSTRAINT_ERRORS, FIRST_BESIDE, FIRST_CONSTRAINT
from skiptune.storage.tables import EvaluationRow, RungRow, ScoreRow

__all__ = ["Standing", "leading", "promotable", "scored_count", "standings", "violates"]


_NUMBERS = (ScoreRow.difference, func.coalesce(ScoreRow.difference_error, 0.0).label("error"))


@dataclass(frozen=True)
class Standing:
    """A scored proposal: its difference to the baseline and the standard error of that."""

    evaluation_id: str
    number: int
    difference: float
    difference_error: float


def scored_count(database: Database, study_id: str, *, level: int) -> int:
    """Return how many proposals of a study's search are scored at a rung, ended ones left out."""
    query = _scored(study_id, level, func.count()).where(ScoreRow.place == 0)
    with database.read() as session:
        return int(session.scalars(query).one())


def leading(database: Database, study_id: str, *, level: int, places: int) -> tuple[Standing, ...]:
    """Return a rung's best proposals, best first, whether or not they have gone on.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        level: The rung's level, 0 is the lowest.
        places: How many at most: the lowest differences, of equal ones the older.
    """
    query = (
        _scored(study_id, level, EvaluationRow.id, EvaluationRow.number, *_NUMBERS)
        .where(ScoreRow.place == 0)
        .order_by(ScoreRow.difference, EvaluationRow.number)
        .limit(places)
    )
    with database.read() as session:
        return tuple(Standing(*row) for row in session.execute(query))


def promotable(
    database: Database, study_id: str, *, level: int, places: int
) -> tuple[Standing, ...]:
    """Return those of a rung's best proposals that have not entered the next rung, best first.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        level: The rung's level, 0 is the lowest.
        places: How many are its best: the lowest differences, of equal ones the older.
    """
    best = (
        _scored(
            study_id,
            level,
            EvaluationRow.id,
            EvaluationRow.number,
            *_NUMBERS,
        )
        .where(ScoreRow.place == 0)
        .order_by(ScoreRow.difference, EvaluationRow.number)
        .limit(places)
        .subquery()
    )
    higher = aliased(RungRow)
    entered = select(higher.id).where(higher.evaluation_id == best.c.id, higher.level == level + 1)
    query = (
        select(best.c.id, best.c.number, best.c.difference, best.c.error)
        .where(~entered.exists())
        .order_by(best.c.difference, best.c.number)
    )
    with database.read() as session:
        return tuple(Standing(*row) for row in session.execute(query))


def standings(
    database: Database, study_id: str, *, level: int, objectives: int
) -> dict[Standing, tuple[float, ...]]:
    """Return the differences of a rung's proposals in all objectives, by number.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        level: The rung's level, 0 is the lowest.
        objectives: How many the study has.
    """
    query = (
        _scored(study_id, level, EvaluationRow.id, EvaluationRow.number, *_NUMBERS)
        .add_columns(ScoreRow.place)
        .order_by(EvaluationRow.number, ScoreRow.place)
    )
    found: dict[str, list[Any]] = {}
    with database.read() as session:
        for key, number, difference, error, _ in session.execute(query):
            found.setdefault(key, []).append((number, difference, error))
    return {
        Standing(key, *rows[0]): tuple(difference for _, difference, _ in rows)
        for key, rows in found.items()
        if len(rows) == objectives
    }


def violates(level: Any) -> ColumnElement[bool]:
    """Whether the evaluation of a query violates a constraint at a level.

    Arguments:
        level: The level, a number or a column.
    """
    gap = aliased(ScoreRow)
    return (
        select(gap.id)
        .where(
            gap.evaluation_id == EvaluationRow.id,
            gap.level == level,
            gap.place >= FIRST_CONSTRAINT,
            gap.place < FIRST_BESIDE,
            gap.value > CONSTRAINT_ERRORS * gap.standard_error,
        )
        .correlate_except(gap)
        .exists()
    )


def _scored(study_id: str, level: int, *columns: Any) -> Select[Any]:
    return (
        select(*columns)
        .select_from(ScoreRow)
        .join(EvaluationRow, EvaluationRow.id == ScoreRow.evaluation_id)
        .where(
            EvaluationRow.study_id == study_id,
            EvaluationRow.kind == "proposal",
            EvaluationRow.block == SEARCH_BLOCK,
            EvaluationRow.state.not_in(("diverged", "failed")),
            ScoreRow.level == level,
            ScoreRow.place < FIRST_CONSTRAINT,
            ScoreRow.difference.is_not(None),
            ~violates(level),
        )
    )
