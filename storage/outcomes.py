"""What a study's evaluations have come to at the lowest rung: all that a sampler is told.

Read in small parts: what was entered since, and what had not ended at the last look.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.records import (
    CONSTRAINT_ERRORS,
    FIRST_BESIDE,
    FIRST_CONSTRAINT,
    EvaluationState,
    Kind,
)
from skiptune.storage.rows import parse
from skiptune.storage.tables import EvaluationRow, ScoreRow

__all__ = ["Outcome", "outcomes"]


@dataclass(frozen=True)
class Outcome:
    """An evaluation of a search.

    Arguments:
        evaluation_id: Its identity.
        number: Its number.
        kind: ``"baseline"`` or ``"proposal"``.
        schedule: Digest of its schedule.
        params: What was proposed.
        state: Of all its rungs together.
        scored: Whether its lowest rung has a score.
        difference: Of that score to the baseline's, None for the baseline.
        further: The differences of the study's further objectives, in their order.
        gaps: By constraint the end of its interval that decides: above 0 where it is violated.
    """

    evaluation_id: str
    number: int
    kind: Kind
    schedule: str
    params: dict[str, Any]
    state: EvaluationState
    scored: bool
    difference: float | None
    further: tuple[float | None, ...] = ()
    gaps: dict[str, float] = field(default_factory=dict)


def outcomes(
    database: Database,
    study_id: str,
    *,
    after: int,
    again: Iterable[str] = (),
    every_place: bool = False,
) -> tuple[Outcome, ...]:
    """Return the baseline and the proposals of a study's search, by number.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        after: Those with a larger number.
        again: And those with these identities.
        every_place: The study has further objectives or constraints.
    """
    chosen = (
        EvaluationRow.study_id == study_id,
        EvaluationRow.block == SEARCH_BLOCK,
        EvaluationRow.kind.in_(("baseline", "proposal")),
        or_(EvaluationRow.number > after, EvaluationRow.id.in_(tuple(again))),
    )
    query = (
        select(
            EvaluationRow.id,
            EvaluationRow.number,
            EvaluationRow.kind,
            EvaluationRow.schedule,
            EvaluationRow.params,
            EvaluationRow.state,
            ScoreRow.id,
            ScoreRow.difference,
        )
        .outerjoin(
            ScoreRow,
            and_(
                ScoreRow.evaluation_id == EvaluationRow.id,
                ScoreRow.level == 0,
                ScoreRow.place == 0,
            ),
        )
        .where(*chosen)
        .order_by(EvaluationRow.number)
    )
    with database.read() as session:
        further, gaps = _others(session, chosen) if every_place else ({}, {})
        return tuple(
            Outcome(
                evaluation_id=key,
                number=number,
                kind=cast(Kind, kind),
                schedule=schedule,
                params=parse(params),
                state=cast(EvaluationState, state),
                scored=score is not None,
                difference=difference,
                further=tuple(further.get(key, ())),
                gaps=gaps.get(key, {}),
            )
            for key, number, kind, schedule, params, state, score, difference in session.execute(
                query
            )
        )


Further = dict[str, list[float | None]]
Gaps = dict[str, dict[str, float]]


def _others(session: Session, chosen: tuple[ColumnElement[bool], ...]) -> tuple[Further, Gaps]:
    """Return further differences, and what constraints amount to, by evaluation."""
    further: Further = {}
    gaps: Gaps = {}
    query = (
        select(ScoreRow)
        .join(EvaluationRow, EvaluationRow.id == ScoreRow.evaluation_id)
        .where(*chosen, ScoreRow.level == 0, ScoreRow.place.between(1, FIRST_BESIDE - 1))
        .order_by(ScoreRow.place)
    )
    for score in session.scalars(query):
        if score.place < FIRST_CONSTRAINT:
            further.setdefault(score.evaluation_id, []).append(score.difference)
        else:
            gap = score.value - CONSTRAINT_ERRORS * score.standard_error
            gaps.setdefault(score.evaluation_id, {})[score.metric] = gap
    return further, gaps
