"""Pareto fronts: who is beaten by nobody in all objectives at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["front_ranks"]


def front_ranks(points: Sequence[Sequence[float]]) -> list[int]:
    """Return for each point the number of its Pareto front: 0 is dominated by none.

    A point dominates another one that it is nowhere worse than and somewhere better; lower is
    better. Peeled front by front (Goldberg 1989; NSGA-II, Deb et al. 2002, section III A).

    Arguments:
        points: One sequence of objectives each, all of one length.
    """
    values = np.asarray(points, dtype=np.float64)
    ranks = [-1] * len(values)
    left = np.arange(len(values))
    rank = 0
    while len(left):
        here = values[left]
        beaten = [
            bool(((here <= point).all(axis=1) & (here < point).any(axis=1)).any())
            for point in here
        ]
        for index, out in zip(left, beaten, strict=True):
            if not out:
                ranks[int(index)] = rank
        left = left[np.array(beaten)]
        rank += 1
    return ranks
