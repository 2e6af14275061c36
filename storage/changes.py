"""Whether a study's rows have changed since somebody last looked, told without reading them."""

from __future__ import annotations

from sqlalchemy import func, select

from skiptune.canonical import digest
from skiptune.storage.database import Database
from skiptune.storage.records import Study
from skiptune.storage.tables import (
    EvaluationRow,
    RungRow,
    ScoreRow,
    SpentSeedsRow,
)

__all__ = ["state_mark"]


def state_mark(database: Database, study: Study) -> str:
    """Return a digest that changes when what can be told of a study changes.

    Chunks and pictures do not enter it: what is told of them comes with the scores.

    Arguments:
        database: Where the study lives.
        study: Its row as it is now.
    """
    mine = EvaluationRow.study_id == study.id
    queries = (
        select(
            EvaluationRow.state,
            EvaluationRow.kind,
            func.count(),
            func.max(EvaluationRow.created),
            func.max(EvaluationRow.finished),
        )
        .where(mine)
        .group_by(EvaluationRow.state, EvaluationRow.kind)
        .order_by(EvaluationRow.state, EvaluationRow.kind),
        select(RungRow.state, func.count())
        .join(EvaluationRow, EvaluationRow.id == RungRow.evaluation_id)
        .where(mine)
        .group_by(RungRow.state)
        .order_by(RungRow.state),
        select(func.count(), func.max(ScoreRow.created))
        .join(EvaluationRow, EvaluationRow.id == ScoreRow.evaluation_id)
        .where(mine),
        select(func.count(), func.max(SpentSeedsRow.created)).where(
            SpentSeedsRow.study_id == study.id
        ),
    )
    with database.read() as session:
        counted = [[list(row) for row in session.execute(query)] for query in queries]
    return digest([study.spec, study.board, study.state, counted])
