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
from skiptune.search.fronts import front_ranks
from skiptune.search.study import OpenStudy
from skiptune.storage import ledger
from skiptune.storage.ledger import Standing

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
    objectives = len(study.spec.objective.keys)
    for level in reversed(range(len(study.rungs) - 1)):
        due = _due(study, level) if objectives == 1 else _due_of_several(study, level, objectives)
        for standing in due:
            try:
                ledger.promote(study.database, standing.evaluation_id, study.rungs[level + 1])
            except BudgetSpentError:
                return entered
            entered += 1
    return entered


def _due(study: OpenStudy, level: int) -> list[Standing]:
    scored = ledger.scored_count(study.database, study.id, level=level)
    best_ones = ledger.promotable(
        study.database, study.id, level=level, places=places(scored, study.spec.search.promote)
    )
    return [s for s in best_ones if s.difference <= WORSE * s.difference_error]


def _due_of_several(study: OpenStudy, level: int, objectives: int) -> list[Standing]:
    """Return who is due where there are several objectives: front by front, then by the first.

    One that is worse than the baseline in the first may be better in another, so none is left out.
    """
    standings = ledger.standings(study.database, study.id, level=level, objectives=objectives)
    order = list(standings)
    count = places(len(order), study.spec.search.promote)
    ranks = front_ranks([standings[standing] for standing in order], enough=count)
    ranked = sorted(zip(ranks, order, strict=True), key=lambda p: (p[0], p[1].difference))
    higher = {
        rung.evaluation_id
        for rung in ledger.rungs(study.database, study.id)
        if rung.level == level + 1
    }
    chosen = [standing for _, standing in ranked[:count]]
    return [standing for standing in chosen if standing.evaluation_id not in higher]
