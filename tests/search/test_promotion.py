from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.search.promotion import best, promotable

DIFFERENCES = st.dictionaries(st.integers(1, 50), st.floats(-5, 5, allow_nan=False), max_size=12)


@given(DIFFERENCES, st.integers(0, 15))
def test_best_are_those_that_no_other_beats(differences: dict[int, float], count: int) -> None:
    chosen = best(differences, count)
    assert len(chosen) == min(count, len(differences))
    for number in chosen:
        beaten_by = [
            other
            for other in differences
            if (differences[other], other) < (differences[number], number)
        ]
        assert len(beaten_by) < count


def test_equal_differences_are_decided_by_age() -> None:
    assert best({7: -1.0, 3: -1.0, 5: 0.0}, 1) == (3,)


def test_a_third_written_with_four_digits_is_a_third() -> None:
    rung = {number: float(number) for number in range(1, 7)}
    assert promotable([rung, {}], fraction=0.3333, left=[set()]) == ((1, 1), (2, 1))


@given(
    st.lists(st.floats(-5, 5, allow_nan=False), min_size=1, max_size=20),
    st.sampled_from([0.25, 1 / 3, 0.5, 1.0]),
)
def test_every_arrival_order_promotes_the_best_third(values: list[float], fraction: float) -> None:
    """Whoever arrives when: at the end at least the best `fraction` have gone up."""
    order = list(enumerate(values, start=1))
    random.Random(0).shuffle(order)
    scored: dict[int, float] = {}
    left: set[int] = set()
    for number, value in order:
        scored[number] = value
        left |= {n for n, _ in promotable([scored, {}], fraction=fraction, left=[left])}
    places = int(len(values) * fraction + 1e-3)
    assert set(best(scored, places)) <= left


def test_higher_levels_come_first_and_nobody_goes_twice() -> None:
    low = {1: -3.0, 2: -2.0, 3: -1.0}
    assert promotable(
        [low, {1: -3.0, 4: 1.0, 5: 2.0}, {}], fraction=1 / 3, left=[{4, 5}, set()]
    ) == ((1, 2), (1, 1))
    assert promotable([low, {1: -3.0}, {}], fraction=1 / 3, left=[{1}, set()]) == ()


@pytest.mark.parametrize("levels", [1, 3])
def test_nothing_scored_promotes_nobody(levels: int) -> None:
    assert promotable([{}] * levels, fraction=0.5, left=[set()] * (levels - 1)) == ()
