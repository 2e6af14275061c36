"""The smallest gain that a confirm can prove, against confirms that are drawn."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.search.power import chance, images_for, smallest_gain
from skiptune.search.result import Measured, is_win

BASELINE = Measured("baseline", 2000, 6.0, 10.0, 0.2)


def wins(gain: float, error: float, *, level: float, least: float, draws: int = 20_000) -> float:
    """Return the part of drawn confirms that `is_win` calls a win; gain and error in percent."""
    unit = BASELINE.value / 100
    found = np.random.default_rng(7).normal(-gain * unit, error * unit, draws)
    won = [
        is_win(
            Measured("tuned", 2000, 6.0, 9.0, 0.2, difference, error * unit),
            BASELINE,
            alpha=level,
            min_gain=least / 100,
        )
        for difference in found
    ]
    return float(np.mean(won))


@pytest.mark.parametrize(
    ("error", "level", "least"),
    # The test decides; the least gain decides; both are close.
    [(1.5, 0.025, 1.0), (0.3, 0.025, 1.0), (0.5, 0.05, 1.0), (2.0, 0.0125, 0.0)],
)
def test_drawn_confirms_find_the_smallest_gain_in_nine_of_ten(
    error: float, level: float, least: float
) -> None:
    gain = smallest_gain(error, level=level, least=least)
    # Three standard errors of the part of 20,000 draws.
    assert wins(gain, error, level=level, least=least) == pytest.approx(0.9, abs=0.0064)
    half = gain / 2
    expected = chance(half, error=error, level=level, least=least)
    assert wins(half, error, level=level, least=least) == pytest.approx(expected, abs=0.011)


def test_the_formula_by_hand() -> None:
    # 2.2414 for a level of 0.025 on two sides, 1.2816 for a power of 90 %.
    assert smallest_gain(2.0, level=0.025) == pytest.approx(2 * (2.2414 + 1.2816), abs=1e-3)
    assert chance(0.0, error=1.0, level=0.05) == pytest.approx(0.025)


@given(
    gain=st.floats(0.1, 50),
    deviation=st.floats(1, 300),
    level=st.sampled_from([0.05, 0.025, 0.003]),
    least=st.sampled_from([0.0, 1.0]),
)
def test_images_are_the_fewest_chunks_that_resolve_a_gain(
    gain: float, deviation: float, level: float, least: float
) -> None:
    images = images_for(gain, deviation=deviation, level=level, least=least)
    if gain <= least:
        assert images is None
        return
    assert images is not None and images % 250 == 0

    def at(count: int) -> float:
        return smallest_gain(deviation / math.sqrt(count), level=level, least=least)

    assert at(images) <= gain * (1 + 1e-9)
    assert images == 250 or at(images - 250) > gain * (1 - 1e-9)


def test_a_gain_of_the_least_that_counts_is_found_in_half_of_all_confirms() -> None:
    assert chance(1.0, error=0.1, level=0.05, least=1.0) == 0.5
    assert images_for(1.0, deviation=10.0, level=0.05, least=1.0) is None
    assert NormalDist().inv_cdf(0.9) == pytest.approx(1.2816, abs=1e-4)
