"""Pareto fronts: who is beaten by nobody in all objectives at once."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["front_ranks"]


def front_ranks(points: Sequence[Sequence[float]], *, enough: int | None = None) -> list[int]:
    """Return for each point the number of its Pareto front: 0 is dominated by none.

    A point dominates another one that it is nowhere worse than and somewhere better; lower is
    better. Peeled front by front (Goldberg 1989; NSGA-II, Deb et al. 2002, section III A).

    Arguments:
        points: One sequence of objectives each, all of one length.
        enough: Once so many are ranked, all others count as the front behind.
    """
    import numpy as np  # not for studies of one objective

    values = np.asarray(points, dtype=np.float64)
    ranks = np.full(len(values), -1)
    left = np.arange(len(values))
    rank = 0
    while len(left) and (enough is None or len(values) - len(left) < enough):
        here = values[left]
        beaten = np.array(
            [
                bool(((here <= point).all(axis=1) & (here < point).any(axis=1)).any())
                for point in here
            ]
        )
        ranks[left[~beaten]] = rank
        left = left[beaten]
        rank += 1
    ranks[left] = rank
    return [int(value) for value in ranks]
