"""Which evaluations earn more images: of the best part of a rung those that may still be the best.

Promotion-type successive halving: an evaluation that is promoted goes on from the images it
already has, so nothing is thrown away, and a decision never waits for a full rung. Decisions are
a function of what is stored, hence the same after every restart.

On common seeds a few hundred images tell most schedules apart. So of a rung's best part only the
rivals of the rung's leader go on, those that may still be better by what counts, and the leader
with them; where it has none, more images would decide nothing. In replays on the landscape of the
bundled network this took less than half of the images of promoting the best part whole
(`bench/replays_promotion.py`). A study that asks for it, by ``promote: 1``, lets everybody go on.

References:
    Li et al., A System for Massively Parallel Hyperparameter Tuning (ASHA), 2020,
    https://arxiv.org/abs/1810.05934, Algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from skiptune.errors import BudgetSpentError
from skiptune.search.fronts import front_ranks
from skiptune.search.rivals import are_rivals
from skiptune.search.samplers import DESCENT
from skiptune.search.sloped import origin_level
from skiptune.search.slopes import sloped_block
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
    count = places(scored, study.spec.search.promote)
    needed = _leader_is_needed(study, level)
    if needed and scored:
        # A better one is where a descent goes on, however few there are to compare it with.
        count = max(count, 1)
    waiting = [
        standing
        for standing in ledger.promotable(study.database, study.id, level=level, places=count)
        if standing.difference <= WORSE * standing.difference_error
    ]
    if study.spec.search.promote >= 1 or not waiting:
        return waiting
    least = _least_difference(study, level)
    leader, *others = ledger.leading(study.database, study.id, level=level, places=count)
    rivals = {
        other
        for other in others
        if other.difference <= WORSE * other.difference_error
        and are_rivals(study, leader, other, level=level, least=least)
    }
    needed = needed and leader.difference < 0
    going = rivals | {leader} if rivals or needed else rivals
    return [standing for standing in waiting if standing in going]


def _least_difference(study: OpenStudy, level: int) -> float:
    """Return the difference that counts: `min_gain` of the baseline's value.

    A screen's distances have another unit, and a value that is not above 0 is none: there the
    smallest difference counts.
    """
    found = ledger.baseline_score(study.database, study.id)
    screened = study.spec.screen is not None and level == 0
    if found is None or screened:
        return 0.0
    return study.spec.confirm.min_gain * max(found[1].value, 0.0)


def _leader_is_needed(study: OpenStudy, level: int) -> bool:
    """Return whether more rests on a rung's leader than its order: the origins of a descent."""
    if study.sampler != DESCENT:
        return False
    return level < origin_level(study.spec, sloped_block(study))


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
