from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.views import numbers


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (5.8123, "5.812"),
        (12.3456, "12.35"),
        (123.456, "123.5"),
        (123456.0, "123456"),
        (0.123456, "0.1235"),
        (0.0, "0.000"),
        (-0.5, "-0.5000"),
        (0.00012345, "0.000123"),  # six decimals at most
        (math.nan, "not finite"),
        (math.inf, "not finite"),
    ],
)
def test_a_value_has_four_significant_digits(number: float, text: str) -> None:
    assert numbers.value(number) == text


@given(st.floats(1e-3, 1e4))
def test_a_shown_value_is_near_the_number(number: float) -> None:
    assert float(numbers.value(number)) == pytest.approx(number, rel=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (5.6712, 5.9533, "[5.671, 5.953]"),
        (-12.3456, 3.0, "[-12.35, 3.00]"),
        (0.01234, 0.5678, "[0.0123, 0.5678]"),
        (-2345.6, 0.0, "[-2346, 0]"),
        (0.0, 0.00001234, "[0.000000, 0.000012]"),
        (0.0, 0.0, "[0.000, 0.000]"),
    ],
)
def test_an_interval_has_four_significant_digits_of_its_larger_end(
    low: float, high: float, text: str
) -> None:
    assert numbers.interval(low, high) == text


@given(st.floats(-100, 100), st.floats(0, 100))
def test_an_interval_shows_both_ends_with_the_same_decimals(low: float, width: float) -> None:
    left, right = numbers.interval(low, low + width)[1:-1].split(", ")
    assert len(left.partition(".")[2]) == len(right.partition(".")[2])
    assert float(left) <= float(right)


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.031, "+3.1"), (-0.4, "-40.0"), (0.0, "+0.0"), (-0.0001, "+0.0"), (1.5, "+150.0")],
)
def test_percent_is_signed_and_knows_no_minus_zero(fraction: float, text: str) -> None:
    assert numbers.percent(fraction) == text


@pytest.mark.parametrize(
    ("scale", "text"), [(1.15, "+15.0 %"), (0.85, "-15.0 %"), (0.0, "dropped"), (2.0, "+100.0 %")]
)
def test_change(scale: float, text: str) -> None:
    assert numbers.change(scale) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (312, "5 min 12 s"),
        (3599.7, "1 h 00 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert numbers.duration(seconds) == text


def test_counts_and_gains() -> None:
    assert numbers.count(46_500) == "46,500"
    assert numbers.nfe(6.0) == "6"
    assert numbers.nfe(7.5) == "7.5"
    assert numbers.gain(0.031, 0.012, 0.05) == "+3.1 % [+1.2, +5.0]"
    assert numbers.bare_gain(0.031, 0.012, 0.05) == "+3.1 [+1.2, +5.0]"
