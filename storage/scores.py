"""What the rungs of a study amount to."""

from __future__ import annotations

import math

from sqlalchemy import select

from skiptune.errors import StorageError
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.records import Evaluation, Score
from skiptune.storage.rows import evaluation_of, evaluation_row, now, score_of
from skiptune.storage.tables import EvaluationRow, RungRow, ScheduleRow, ScoreRow

__all__ = [
    "baseline_score",
    "put_score",
    "scores",
]


def put_score(
    database: Database,
    evaluation_id: str,
    *,
    level: int,
    metric: str,
    reference: str,
    images: int,
    value: float,
    standard_error: float,
    raw: float | None = None,
    difference: float | None = None,
    difference_error: float | None = None,
    baseline_images: int | None = None,
) -> Score:
    """Store the score of a rung and complete the rung; the first score of a key stays.

    An evaluation none of whose rungs is open any more is complete, until it is promoted.

    Scores are a pure function of stored arrays, so whoever computes one again has the same
    number; the stored one is returned, and it is the one to go on with.

    Arguments:
        database: Where the study lives.
        evaluation_id: The evaluation.
        level: Of its rung.
        metric: Name of the metric, with features, count and correction.
        reference: Digest of the reference.
        images: Images behind the value.
        value: The metric, finite.
        standard_error: Of the value.
        raw: The metric without its correction for the number of images.
        difference: Paired with the baseline on the same seeds, negative is better.
        difference_error: Standard error of the difference.
        baseline_images: Images of the baseline behind the difference.

    Raises:
        StorageError: There is no such evaluation or rung.
        ValueError: A number is NaN or infinite: such an evaluation has diverged.
    """
    numbers = (value, standard_error, raw, difference, difference_error)
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
        key = {
            "evaluation_id": evaluation_id,
            "level": level,
            "metric": metric,
            "reference": reference,
        }
        row = session.scalar(select(ScoreRow).filter_by(**key))
        if row is None:
            row = ScoreRow(
                **key,
                images=images,
                value=value,
                standard_error=standard_error,
                raw=raw,
                difference=difference,
                difference_error=difference_error,
                baseline_images=baseline_images,
            )
            session.add(row)
            session.flush()
        if rung.state == "open":
            rung.state = "complete"
            rung.completed = now(session)
            session.flush()
        still_open = select(RungRow.id).filter_by(evaluation_id=evaluation_id, state="open")
        if owner.state == "running" and session.scalar(still_open.limit(1)) is None:
            owner.state = "complete"
            owner.finished = now(session)
        return score_of(row)


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
        )
        .order_by(EvaluationRow.number)
        .limit(1)
    )
    with database.read() as session:
        found = session.execute(query).first()
    return None if found is None else (evaluation_of(found[0], found[1]), score_of(found[2]))


def scores(
    database: Database, study_id: str, *, evaluation_id: str | None = None
) -> tuple[Score, ...]:
    """Return the scores of a study or of one of its evaluations, by number and level."""
    query = (
        select(ScoreRow)
        .join(EvaluationRow, EvaluationRow.id == ScoreRow.evaluation_id)
        .where(EvaluationRow.study_id == study_id)
        .order_by(EvaluationRow.number, ScoreRow.level, ScoreRow.metric, ScoreRow.reference)
    )
    if evaluation_id is not None:
        query = query.where(EvaluationRow.id == evaluation_id)
    with database.read() as session:
        return tuple(score_of(row) for row in session.scalars(query))
