"""What a result claims: intervals by hand, and exactly where a win begins."""

from __future__ import annotations

import math

import pytest

from skiptune.search.result import Measured, SecondLook, is_win

# Normal quantiles, from a table: 1 - 0.05 / 2, 1 - 0.025 / 2, 1 - 0.0125 / 2.
Z = {0.05: 1.959963985, 0.025: 2.241402728, 0.0125: 2.497705474}


def baseline(value: float) -> Measured:
    return Measured("baseline", 500, 6.0, value, 0.3)


def tuned(difference: float, error: float) -> Measured:
    return Measured("tuned", 500, 6.0, 10.0 + difference, 0.3, difference, error)


@pytest.mark.parametrize("alpha", Z)
def test_a_win_begins_where_the_whole_interval_is_on_the_better_side(alpha: float) -> None:
    error = 0.2
    edge = Z[alpha] * error
    for difference, won in (
        (-edge * (1 + 1e-6), True),
        (-edge * (1 - 1e-6), False),
        (0.0, False),
        (edge * 2, False),
    ):
        one = tuned(difference, error)
        assert is_win(one, baseline(10.0), alpha=alpha, min_gain=0.0) is won


def test_a_win_has_at_least_the_least_gain() -> None:
    for difference, won in ((-0.5, True), (-0.4999, False), (-0.6, True)):
        one = tuned(difference, 0.01)
        assert is_win(one, baseline(10.0), alpha=0.05, min_gain=0.05) is won


def test_a_value_that_is_not_above_0_is_no_unit_and_nothing_wins() -> None:
    one = tuned(-5.0, 0.1)
    for value in (0.0, -1.0):
        assert one.gain(value) is None and one.gain_interval(value) is None
        assert not is_win(one, baseline(value), alpha=0.05, min_gain=0.0)
    # Nor does whatever has no difference: the baseline itself.
    assert not is_win(baseline(10.0), baseline(10.0), alpha=0.05, min_gain=0.0)


def test_intervals_by_hand() -> None:
    one = tuned(-1.5, 0.4)
    assert one.gain(10.0) == pytest.approx(0.15)
    half = Z[0.025] * 0.4 / 10
    assert one.gain_interval(10.0, level=0.975) == pytest.approx((0.15 - half, 0.15 + half))
    half = Z[0.05] * 0.3
    assert one.interval() == pytest.approx((8.5 - half, 8.5 + half))


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_second_look_disagrees_beyond_the_error_alone(side: float) -> None:
    for difference, beyond in ((side * 0.39, False), (side * 0.4, True)):
        look = SecondLook("m", baseline(10.0), tuned(difference, 0.2))
        assert look.disagrees is (beyond and side > 0)
        assert look.gain is not None and math.copysign(1.0, look.gain) == -side
