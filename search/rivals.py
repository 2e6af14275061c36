"""Whether two evaluations of a rung are still rivals: compared with each other on common seeds.

Both differences to the baseline carry its error and, on common seeds, most of their own in common.
So two schedules may be told apart by a few hundred images although each is within its error of the
baseline. The error of their difference comes from the stored arrays: from the per-image influence
values of both (`objectives.metrics.Summary.error_with`).
"""

from __future__ import annotations

from typing import Final

from skiptune.search.scoring import NotSampledError, summary_of
from skiptune.search.study import OpenStudy
from skiptune.storage import ledger
from skiptune.storage.arrays import LostFileError
from skiptune.storage.ledger import Rung, Standing

__all__ = ["DECIDED", "are_rivals", "paired_error"]

DECIDED: Final = 2.0
"""Paired standard errors beyond which the order of two evaluations is taken as decided: one in 44
would be wrong if they were equally good, and then little is lost."""


def are_rivals(
    study: OpenStudy, leader: Standing, other: Standing, *, level: int, least: float
) -> bool:
    """Return whether an evaluation may still be better than its leader by what counts.

    Of two that are equally good, but for less than counts, either will do: an indifference zone
    (Bechhofer 1954, A single-sample multiple decision procedure for ranking means).

    Arguments:
        study: The open study; it has one objective.
        leader: The better one at a rung.
        other: Another one there.
        level: The rung.
        least: The least difference that counts, in the metric's unit, at least 0.
    """
    behind = other.difference - leader.difference + least
    # Errors obey the triangle inequality: most pairs are decided without reading an array.
    if behind > DECIDED * (leader.difference_error + other.difference_error):
        return False
    error = paired_error(study, leader, other, level=level)
    return error is not None and behind < DECIDED * error


def paired_error(
    study: OpenStudy, ours: Standing, theirs: Standing, *, level: int
) -> float | None:
    """Return the standard error of the difference of two evaluations at a rung.

    Returns:
        Infinity where arrays were dropped to save space: without them nothing is decided. None
        where an array is on its way again after a loss: then it is asked again later.
    """
    parts = []
    for one in (ours, theirs):
        try:
            parts.append(summary_of(study, _rung(study, one, level)))
        except LostFileError:
            return None
        except NotSampledError:
            chunks = ledger.chunks_of(study.database, one.evaluation_id, study.rungs[level])
            dropped = any(chunk.state == "dropped" for chunk in chunks)
            return float("inf") if dropped else None
    return parts[0].error_with(parts[1])


def _rung(study: OpenStudy, one: Standing, level: int) -> Rung:
    rungs = ledger.rungs(study.database, study.id, evaluation_id=one.evaluation_id)
    return rungs[level]
