"""Pareto fronts against their definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skiptune.search.fronts import front_ranks

Points = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12)


def dominates(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


@given(Points)
def test_ranks_are_those_of_the_definition(points: list[tuple[int, ...]]) -> None:
    ranks = front_ranks(points)
    assert len(ranks) == len(points)
    for point, rank in zip(points, ranks, strict=True):
        above = [r for p, r in zip(points, ranks, strict=True) if dominates(p, point)]
        # Beaten by somebody of the front before its own, and by nobody of its own.
        assert rank == max(above, default=-1) + 1


def test_one_objective_ranks_by_value() -> None:
    assert front_ranks([[3.0], [1.0], [2.0], [1.0]]) == [2, 0, 1, 0]
