"""What a study's evaluations have come to at the lowest rung: all that a sampler is told.

Read in small parts: what was entered since, and what had not ended at the last look.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import and_, or_, select

from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.records import EvaluationState, Kind
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
    """

    evaluation_id: str
    number: int
    kind: Kind
    schedule: str
    params: dict[str, Any]
    state: EvaluationState
    scored: bool
    difference: float | None


def outcomes(
    database: Database, study_id: str, *, after: int, again: Iterable[str] = ()
) -> tuple[Outcome, ...]:
    """Return the baseline and the proposals of a study's search, by number.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        after: Those with a larger number.
        again: And those with these identities.
    """
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
        .outerjoin(ScoreRow, and_(ScoreRow.evaluation_id == EvaluationRow.id, ScoreRow.level == 0))
        .where(
            EvaluationRow.study_id == study_id,
            EvaluationRow.block == SEARCH_BLOCK,
            EvaluationRow.kind.in_(("baseline", "proposal")),
            or_(EvaluationRow.number > after, EvaluationRow.id.in_(tuple(again))),
        )
        .order_by(EvaluationRow.number)
    )
    with database.read() as session:
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
            )
            for key, number, kind, schedule, params, state, score, difference in session.execute(
                query
            )
        )
