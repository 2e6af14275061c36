"""What stored scores say of a schedule on a block of a confirm, and in which features."""

from __future__ import annotations

from skiptune.search.result import Measured, SecondLook
from skiptune.storage import ledger
from skiptune.storage.database import Database
from skiptune.storage.records import SECOND_PLACE, Evaluation, Score

__all__ = ["measured_of", "other_looks"]


def measured_of(database: Database, evaluation: Evaluation, score: Score) -> Measured:
    """Return a score of an evaluation with what its images cost."""
    chunk = ledger.chunks_of(database, evaluation.id, score.images)[0]
    return Measured(
        label=evaluation.label,
        images=score.images,
        nfe=chunk.nfe or 0.0,
        value=score.value,
        standard_error=score.standard_error or 0.0,
        difference=score.difference,
        difference_error=score.difference_error,
    )


def other_looks(
    database: Database, study_id: str, base: Evaluation, winner: Evaluation
) -> dict[int, SecondLook]:
    """Return what other features say of a block, by place, where both were measured in them.

    Arguments:
        database: Of the study.
        study_id: Its identifier.
        base: The untouched network on the block.
        winner: The chosen schedule on the same block.
    """
    found: dict[int, list[tuple[str, Measured]]] = {}
    for one in (base, winner):
        for score in ledger.scores(
            database, study_id, evaluation_id=one.id, level=0, every_place=True
        ):
            if score.place >= SECOND_PLACE:
                row = (score.metric, measured_of(database, one, score))
                found.setdefault(score.place, []).append(row)
    return {
        place: SecondLook(rows[0][0], rows[0][1], rows[1][1])
        for place, rows in sorted(found.items())
        if len(rows) == 2
    }
