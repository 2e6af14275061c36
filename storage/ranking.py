"""Who leads a rung: read in order from the database, so that ten thousand rows stay there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import aliased

from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.tables import EvaluationRow, RungRow, ScoreRow

__all__ = ["Standing", "promotable", "scored_count"]


@dataclass(frozen=True)
class Standing:
    """A scored proposal: its difference to the baseline and the standard error of that."""

    evaluation_id: str
    number: int
    difference: float
    difference_error: float


def scored_count(database: Database, study_id: str, *, level: int) -> int:
    """Return how many proposals of a study's search are scored at a rung, ended ones left out."""
    query = _scored(study_id, level, func.count())
    with database.read() as session:
        return int(session.scalars(query).one())


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
            ScoreRow.difference,
            func.coalesce(ScoreRow.difference_error, 0.0).label("error"),
        )
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
            ScoreRow.difference.is_not(None),
        )
    )
