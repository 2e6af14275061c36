"""What Optuna has not been told yet: told at least once, and noted when it was.

A crash between telling and noting lets it be told again; whoever tells looks first at what Optuna
has. When Optuna's studies are gone, nothing counts as told any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Update, select, update

from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.records import Evaluation, Score
from skiptune.storage.rows import evaluation_of, score_of
from skiptune.storage.tables import EvaluationRow, ScheduleRow, ScoreRow

__all__ = ["Untold", "forget_told", "mark_told", "untold"]


@dataclass(frozen=True)
class Untold:
    """An evaluation's score at a rung, or with no score its end, that Optuna does not know."""

    evaluation: Evaluation
    score: Score | None


def untold(database: Database, study_id: str) -> tuple[Untold, ...]:
    """Return what Optuna has not been told of a study's search, by evaluation and level."""
    told = (
        select(EvaluationRow, ScheduleRow.description)
        .join(ScheduleRow, ScheduleRow.digest == EvaluationRow.schedule)
        .where(
            EvaluationRow.study_id == study_id,
            EvaluationRow.block == SEARCH_BLOCK,
            EvaluationRow.kind.in_(("baseline", "proposal")),
        )
    )
    # Two queries, each with an index of its own: as one, with an outer join, it reads all scores.
    scored = (
        told.add_columns(ScoreRow)
        .join(ScoreRow, ScoreRow.evaluation_id == EvaluationRow.id)
        .where(ScoreRow.projected == 0, ScoreRow.place == 0)
    )
    ended = told.where(
        EvaluationRow.state.in_(("diverged", "failed")),
        EvaluationRow.projected == 0,
        ~select(ScoreRow.id).where(ScoreRow.evaluation_id == EvaluationRow.id).exists(),
    )
    with database.read() as session:
        found = [
            Untold(evaluation_of(row, text), score_of(score))
            for row, text, score in session.execute(scored)
        ]
        found += [Untold(evaluation_of(row, text), None) for row, text in session.execute(ended)]
    return tuple(sorted(found, key=_place))


def mark_told(database: Database, items: Iterable[Untold]) -> None:
    """Note that Optuna knows these scores and ends."""
    told = tuple(items)
    if not told:
        return
    scores = [item.score.id for item in told if item.score is not None]
    evaluations = [
        item.evaluation.id for item in told if item.score is None or item.score.level == 0
    ]
    with database.write("mark_told") as session:
        # A study that is told from the beginning has more of them than a statement has parameters.
        for ids in _parts(scores):
            session.execute(_told(update(ScoreRow).where(ScoreRow.id.in_(ids))))
        for ids in _parts(evaluations):
            session.execute(_told(update(EvaluationRow).where(EvaluationRow.id.in_(ids))))


def forget_told(database: Database, study_id: str) -> None:
    """Let everything of a study's search count as not told."""
    mine = select(EvaluationRow.id).where(EvaluationRow.study_id == study_id)
    with database.write("forget_told") as session:
        for query in (
            update(ScoreRow).where(ScoreRow.evaluation_id.in_(mine)),
            update(EvaluationRow).where(EvaluationRow.study_id == study_id),
        ):
            session.execute(_told(query, 0))


def _place(item: Untold) -> tuple[int, int]:
    return item.evaluation.number, -1 if item.score is None else item.score.level


def _told(query: Update, value: int = 1) -> Update:
    return query.values(projected=value).execution_options(synchronize_session=False)


def _parts(ids: Sequence[str], size: int = 1000) -> Iterator[Sequence[str]]:
    for first in range(0, len(ids), size):
        yield ids[first : first + size]
