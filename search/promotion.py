"""Which evaluations earn more images: the best third of each rung, asynchronously.

Promotion-type successive halving: an evaluation that is promoted goes on from the images it
already has, so nothing is thrown away, and a decision never waits for a full rung. Decisions are
a function of the stored scores, hence the same after every restart.

References:
    Li et al., A System for Massively Parallel Hyperparameter Tuning (ASHA), 2020,
    https://arxiv.org/abs/1810.05934, Algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from skiptune.errors import BudgetSpentError
from skiptune.search.study import OpenStudy
from skiptune.storage import ledger

__all__ = ["WORSE", "best", "places", "promote"]

WORSE = 1.96
"""An evaluation that is worse than the baseline by so many standard errors earns no more images,
however early it came and however few there are to compare it with."""


def best(differences: Mapping[int, float], count: int) -> tuple[int, ...]:
    """Return the numbers of the evaluations with the lowest differences, best first.

    Arguments:
        differences: Corrected paired difference to the baseline by evaluation number, in the
            metric's unit; lower is better. Of equal ones the older comes first, so that every
            worker agrees.
        count: How many at most.
    """
    return tuple(sorted(differences, key=lambda number: (differences[number], number))[:count])


def places(scored: int, fraction: float) -> int:
    """Return how many of a rung's scored evaluations are its best part.

    A little slack, so that 6 evaluations at a third written as 0.3333 promote two.
    """
    return math.floor(scored * fraction + 1e-3)


def promote(study: OpenStudy) -> int:
    """Enter the next rung of every evaluation that has earned it, the highest rungs first.

    Returns:
        How many were entered. Where the study's images are spent, nobody goes on.
    """
    entered = 0
    for level in reversed(range(len(study.rungs) - 1)):
        scored = ledger.scored_count(study.database, study.id, level=level)
        due = ledger.promotable(
            study.database,
            study.id,
            level=level,
            places=places(scored, study.spec.search.promote),
        )
        for standing in due:
            if standing.difference > WORSE * standing.difference_error:
                continue
            try:
                ledger.promote(study.database, standing.evaluation_id, study.rungs[level + 1])
            except BudgetSpentError:
                return entered
            entered += 1
    return entered
