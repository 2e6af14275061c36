"""What the rungs of a study amount to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from skiptune.errors import StorageError
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.records import FIRST_CONSTRAINT, Evaluation, NewScore, Score
from skiptune.storage.rows import evaluation_of, evaluation_row, now, score_of
from skiptune.storage.tables import EvaluationRow, RungRow, ScheduleRow, ScoreRow

__all__ = [
    "baseline_score",
    "baseline_scores",
    "put_score",
    "put_scores",
    "scores",
]


def put_score(database: Database, evaluation_id: str, *, level: int, **numbers: Any) -> Score:
    """Store the one score of a rung and complete the rung: `put_scores` of one `NewScore`."""
    return put_scores(database, evaluation_id, [NewScore(**numbers)], level=level)[0]


def put_scores(
    database: Database, evaluation_id: str, scores: Sequence[NewScore], *, level: int
) -> tuple[Score, ...]:
    """Store all scores of a rung and complete the rung; the first score of a key stays.

    An evaluation none of whose rungs is open any more is complete, until it is promoted.

    Scores are a pure function of stored arrays, so whoever computes one again has the same
    number; the stored ones are returned, and are those to go on with.

    Arguments:
        database: Where the study lives.
        evaluation_id: The evaluation.
        scores: One per metric and reference.
        level: Of its rung.

    Raises:
        StorageError: There is no such evaluation or rung.
        ValueError: A number is NaN or infinite: such an evaluation has diverged.
    """
    for new in scores:
        numbers = (new.value, new.standard_error, new.raw, new.difference, new.difference_error)
        if not all(math.isfinite(number) for number in numbers if number is not None):
            raise ValueError(f"a score has finite numbers, found {numbers}")
    with database.write("put_score") as session:
        owner = evaluation_row(session, evaluation_id, lock=True)
        rung = session.scalar(select(RungRow).filter_by(evaluation_id=evaluation_id, level=level))
        if rung is None:
            raise StorageError(
                f"evaluation {evaluation_id}",
                expected="a rung of this evaluation",
                found=f"no rung of level {level}",
                hint="add the rung with `promote` before its score",
            )
        rows = [_stored(session, evaluation_id, level, new) for new in scores]
        if rung.state == "open":
            rung.state = "complete"
            rung.completed = now(session)
            session.flush()
        still_open = select(RungRow.id).filter_by(evaluation_id=evaluation_id, state="open")
        if owner.state == "running" and session.scalar(still_open.limit(1)) is None:
            owner.state = "complete"
            owner.finished = now(session)
        return tuple(score_of(row) for row in rows)


def _stored(session: Session, evaluation_id: str, level: int, new: NewScore) -> ScoreRow:
    row = session.scalar(
        select(ScoreRow).filter_by(
            evaluation_id=evaluation_id, level=level, metric=new.metric, reference=new.reference
        )
    )
    if row is None:
        # Optuna is told of the other places together with the first one.
        row = ScoreRow(
            evaluation_id=evaluation_id, level=level, projected=int(new.place > 0), **asdict(new)
        )
        session.add(row)
        session.flush()
    return row


def baseline_score(database: Database, study_id: str) -> tuple[Evaluation, Score] | None:
    """Return the baseline of a study's search and its score at the first full size, if there.

    What Optuna is told is relative to this score, for ever: a rung added later changes nothing.
    """
    query = (
        select(EvaluationRow, ScheduleRow.description, ScoreRow)
        .join(ScheduleRow, ScheduleRow.digest == EvaluationRow.schedule)
        .join(ScoreRow, ScoreRow.evaluation_id == EvaluationRow.id)
        .where(
            EvaluationRow.study_id == study_id,
            EvaluationRow.kind == "baseline",
            EvaluationRow.block == SEARCH_BLOCK,
            ScoreRow.level == 0,
            ScoreRow.place == 0,
        )
        .order_by(EvaluationRow.number)
        .limit(1)
    )
    with database.read() as session:
        found = session.execute(query).first()
    return None if found is None else (evaluation_of(found[0], found[1]), score_of(found[2]))


def baseline_scores(
    database: Database, study_id: str
) -> tuple[Evaluation, tuple[Score, ...]] | None:
    """Return `baseline_score` with the scores of further objectives behind it."""
    found = baseline_score(database, study_id)
    if found is None:
        return None
    every = scores(
        database, study_id, evaluation_id=found[0].id, level=found[1].level, every_place=True
    )
    return found[0], tuple(score for score in every if score.place < FIRST_CONSTRAINT)


def scores(
    database: Database,
    study_id: str,
    *,
    evaluation_id: str | None = None,
    level: int | None = None,
    every_place: bool = False,
) -> tuple[Score, ...]:
    """Return the scores of a study or of one of its evaluations, by number, level and place.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        evaluation_id: Only those of this evaluation.
        level: Only those of this rung.
        every_place: Not only those that the search decides on (place 0).
    """
    query = (
        select(ScoreRow)
        .join(EvaluationRow, EvaluationRow.id == ScoreRow.evaluation_id)
        .where(EvaluationRow.study_id == study_id)
        .order_by(EvaluationRow.number, ScoreRow.level, ScoreRow.place)
    )
    if not every_place:
        query = query.where(ScoreRow.place == 0)
    if level is not None:
        query = query.where(ScoreRow.level == level)
    if evaluation_id is not None:
        query = query.where(EvaluationRow.id == evaluation_id)
    with database.read() as session:
        return tuple(score_of(row) for row in session.scalars(query))
