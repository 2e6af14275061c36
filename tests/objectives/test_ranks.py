"""Rank correlations against their definition, and the honesty of their intervals."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.errors import ObjectiveError
from skiptune.objectives.ranks import rank_correlation


def definition(first: list[float], second: list[float]) -> float:
    """Spearman's coefficient from ranks that are counted one by one."""

    def ranks(values: list[float]) -> list[float]:
        return [
            sum(other < value for other in values)
            + (sum(other == value for other in values) + 1) / 2
            for value in values
        ]

    pairs = list(zip(ranks(first), ranks(second), strict=True))
    middle = (len(pairs) + 1) / 2
    both = sum((a - middle) * (b - middle) for a, b in pairs)
    sizes = [sum((pair[side] - middle) ** 2 for pair in pairs) for side in (0, 1)]
    return both / float(np.sqrt(sizes[0] * sizes[1]))


# Few values, so that there are ties.
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12).filter(
        lambda pairs: all(len({pair[side] for pair in pairs}) > 1 for side in (0, 1))
    )
)
def test_rank_correlation_is_its_definition(pairs: list[tuple[int, int]]) -> None:
    first, second = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    found = rank_correlation(first, second)
    assert found.value == pytest.approx(definition(first, second), abs=1e-12)
    assert found.pairs == len(pairs)
    assert -1 <= found.low <= found.value <= found.high <= 1
    turned = rank_correlation(second, [-value for value in first])
    assert turned.value == pytest.approx(-found.value, abs=1e-12)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-12)


def test_only_order_counts() -> None:
    first = [0.1, -3.0, 8.0, 2.0, 2.5, 9.0, -1.0, 4.0]
    found = rank_correlation(first, [math.exp(value) for value in first])
    assert found.value == 1
    assert 0 < found.low < found.high == 1


def test_a_perfect_order_of_few_proves_little() -> None:
    lows = [rank_correlation(range(n), range(n)).low for n in (3, 4, 5, 10, 30)]
    assert lows[0] == -1
    assert lows == sorted(lows)
    assert lows[2] < 0.9 < lows[-1]
    assert str(rank_correlation(range(3), range(3))) == "1.00 (-1.00 to 1.00, 3 schedules)"


def test_the_inner_end_of_a_perfect_order_is_the_next_value() -> None:
    values = sorted(
        {round(rank_correlation(range(5), order).value, 12) for order in permutations(range(5))}
    )
    assert values[-1] == 1
    assert values[-2] == pytest.approx(1 - 12 / (5 * 24))


def test_intervals_of_rank_correlations_cover() -> None:
    generator = np.random.default_rng(5)
    # Spearman's coefficient of a normal pair: 6 / pi arcsin(r / 2) (Pearson 1907).
    truth, held = 6 / np.pi * np.arcsin(0.8 / 2), 0
    for _ in range(2000):
        first = generator.standard_normal(20)
        second = 0.8 * first + 0.6 * generator.standard_normal(20)
        found = rank_correlation(first.tolist(), second.tolist())
        held += found.low <= truth <= found.high
    assert 0.93 <= held / 2000 <= 0.97


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ([1, 2], [1, 2, 3], "2 and 3 values"),
        ([1], [1], "1 and 1 values"),
        ([1, 2], [1, np.nan], "NaN"),
        ([1, 1, 1], [1, 2, 3], "the same for all"),
    ],
)
def test_measures_that_cannot_be_compared_are_refused(
    first: list[float], second: list[float], found: str
) -> None:
    with pytest.raises(ObjectiveError, match=found):
        rank_correlation(first, second)
