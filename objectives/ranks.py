"""How alike two measures order the same things. No numpy: `skiptune status` asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from skiptune.errors import ObjectiveError

__all__ = ["RankCorrelation", "rank_correlation"]

# Fisher's z has a standard error from four pairs on.
_LEAST_PAIRS = 4


@dataclass(frozen=True)
class RankCorrelation:
    """How alike two measures order the same things.

    Arguments:
        value: Spearman's coefficient, -1..1; 1 is the same order.
        low: Lower end of its interval.
        high: Upper end.
        pairs: Things n that were ordered; below 4 the interval is all of -1..1.
    """

    value: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f}, {self.pairs} schedules)"


def rank_correlation(
    first: Sequence[float], second: Sequence[float], *, level: float = 0.95
) -> RankCorrelation:
    """Return Spearman's rank correlation, ties at their mean rank, with its interval.

    The interval is Fisher's, tanh(artanh r +- z s), with s^2 = (1 + r^2 / 2) / (n - 3) (Bonett and
    Wright 2000, Psychometrika 65). The same order of n things does not prove that all would be
    ordered alike: at |r| = 1 the inner end is that of the next value, one pair of neighbours
    exchanged.

    Arguments:
        first: [n] values of one measure, e.g. the screen's; n >= 2.
        second: [n] values of the other, of the same things.
        level: Of the interval, in (0, 1).

    Raises:
        ObjectiveError: When the numbers of values differ or are below 2, a value is not finite,
            or all values of one measure are equal.
    """
    finite = all(math.isfinite(value) for values in (first, second) for value in values)
    if len(first) != len(second) or len(first) < 2 or not finite:
        raise ObjectiveError(
            "rank correlation",
            expected="two lists of equally many finite values, at least 2",
            found=f"{len(first)} and {len(second)} values" if finite else "NaN or infinity",
            hint="give both measures of the same schedules, without those that diverged",
        )
    ranks = [_centred_ranks(values) for values in (first, second)]
    spread = math.sqrt(math.prod(_dot(column, column) for column in ranks))
    if spread == 0:
        raise ObjectiveError(
            "rank correlation",
            expected="values that differ",
            found="one measure that is the same for all",
            hint="compare schedules that differ",
        )
    pairs = len(ranks[0])
    value = min(1.0, max(-1.0, _dot(*ranks) / spread))
    if pairs < _LEAST_PAIRS:
        return RankCorrelation(value, -1.0, 1.0, pairs)
    # Sum of squared rank differences 2: 1 - 6 * 2 / (n (n^2 - 1)).
    next_value = 1 - 12 / (pairs * (pairs**2 - 1))
    inner = math.copysign(min(abs(value), next_value), value)
    error = math.sqrt((1 + inner**2 / 2) / (pairs - 3))
    half = NormalDist().inv_cdf((1 + level) / 2) * error
    low, high = (math.tanh(math.atanh(inner) + sign * half) for sign in (-1, 1))
    if value == 1:
        high = 1.0
    if value == -1:
        low = -1.0
    return RankCorrelation(value, low, high, pairs)


def _centred_ranks(values: Sequence[float]) -> list[float]:
    """Return ranks minus their mean, equal values at the mean of theirs."""
    order = sorted(values)
    # The first and the last place of a value, counted from 0.
    first = {value: place for place, value in reversed(list(enumerate(order)))}
    last = {value: place for place, value in enumerate(order)}
    middle = (len(order) - 1) / 2
    return [(first[value] + last[value]) / 2 - middle for value in values]


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(first, second, strict=True))
