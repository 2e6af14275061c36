"""Which evaluations earn more images: the best third of each rung, asynchronously.

Promotion-type successive halving: an evaluation that is promoted goes on from the images it
already has, so nothing is thrown away, and a decision never waits for a full rung. Decisions are
a pure function of the scores, hence the same after every restart.

References:
    Li et al., A System for Massively Parallel Hyperparameter Tuning (ASHA), 2020,
    https://arxiv.org/abs/1810.05934, Algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set

__all__ = ["best", "promotable"]


def best(differences: Mapping[int, float], count: int) -> tuple[int, ...]:
    """Return the numbers of the evaluations with the lowest differences, best first.

    Arguments:
        differences: Corrected paired difference to the baseline by evaluation number, in the
            metric's unit; lower is better. Of equal ones the older comes first, so that every
            worker agrees.
        count: How many at most.
    """
    return tuple(sorted(differences, key=lambda number: (differences[number], number))[:count])


def promotable(
    rungs: Sequence[Mapping[int, float]], *, fraction: float, left: Sequence[Set[int]]
) -> tuple[tuple[int, int], ...]:
    """Return (evaluation number, level to go to) for all promotions due, highest level first.

    Arguments:
        rungs: For each level, lowest first, the difference of every evaluation scored there.
        fraction: The part of a rung that is promoted, in (0, 1].
        left: For each level but the highest, who has left it for the next one already.
    """
    due: list[tuple[int, int]] = []
    for level in reversed(range(len(rungs) - 1)):
        # A little slack, so that 6 evaluations at a third written as 0.3333 promote two.
        places = math.floor(len(rungs[level]) * fraction + 1e-3)
        due += [(n, level + 1) for n in best(rungs[level], places) if n not in left[level]]
    return tuple(due)
