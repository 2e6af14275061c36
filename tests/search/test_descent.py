"""The descent's steps: on functions whose optimum is known."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.search.descent import (
    FIRST,
    LENGTHS,
    DescentSampler,
    Origin,
    proposal,
    shrunk,
)

Array = NDArray[np.float64]
BOX = (np.full(3, -0.5), np.full(3, 0.5))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def origin(slopes: list[float], errors: float = 0.0, step: float = 0.1) -> Origin:
    return Origin(np.zeros(3), np.array(slopes), np.full(3, errors), np.full(3, step))


def test_the_first_steps_go_downhill_in_several_lengths() -> None:
    tried: list[Array] = []
    for length in LENGTHS:
        there = proposal(origin([3.0, 0.0, -4.0]), tried, box=BOX, rng=rng())
        assert there == pytest.approx([-0.1 * length, 0.0, 0.1 * length])
        tried.append(there)
    drawn = proposal(origin([3.0, 0.0, -4.0], errors=2.0), tried, box=BOX, rng=rng())
    assert all(np.abs(drawn - other).max() > 1e-3 for other in tried)


def test_workers_that_ask_after_the_lengths_are_tried_propose_different_steps() -> None:
    here = origin([1.0, -1.0, 1.0], errors=0.5)
    tried: list[Array] = []
    for _ in LENGTHS:
        tried.append(proposal(here, tried, box=BOX, rng=rng()))
    found = [proposal(here, tried, box=BOX, rng=rng(seed)) for seed in range(5)]
    assert len({tuple(np.round(one, 9)) for one in found}) == 5


def test_a_slope_within_its_error_moves_nothing() -> None:
    assert shrunk(np.array([0.5, -2.0, 0.0]), np.ones(3)) == pytest.approx([0.0, -1.5, 0.0])


@given(
    st.lists(st.floats(-100, 100), min_size=3, max_size=3),
    st.floats(0, 10),
    st.integers(0, 2**32 - 1),
)
def test_steps_stay_in_the_box(slopes: list[float], errors: float, seed: int) -> None:
    here = Origin(
        np.array([0.45, -0.45, 0.0]), np.array(slopes), np.full(3, errors), np.full(3, 0.2)
    )
    tried: list[Array] = []
    for _ in range(5):
        there = proposal(here, tried, box=BOX, rng=rng(seed))
        assert np.isfinite(there).all()
        assert (there >= BOX[0]).all() and (there <= BOX[1]).all()
        tried.append(there)


def test_a_half_clear_slope_moves_its_parameter_half_as_far() -> None:
    there = proposal(origin([2.0, -1.0, 0.5], errors=1.0), [], box=BOX, rng=rng())
    assert there == pytest.approx([-0.075, 0.0, 0.0])


def test_steps_grow_where_slopes_keep_their_sign_and_shrink_where_they_turn() -> None:
    no_errors = np.zeros(3)
    history = [
        (np.array([1.0, 1.0, -1.0]), no_errors),
        (np.array([0.5, -1.0, -0.1]), no_errors),
        # The last one is within its error: nothing is learnt of it.
        (np.array([0.2, -1.0, 0.1]), np.array([0.0, 0.0, 0.5])),
    ]
    here = Origin.after(history, logs=np.zeros(3))
    assert here.steps == pytest.approx([FIRST * 1.2 * 1.2, FIRST * 0.5 * 1.2, FIRST * 1.2])
    assert Origin.after(history[:1], logs=np.zeros(3)).steps == pytest.approx([FIRST] * 3)


def test_it_reaches_the_bottom_of_a_bowl_in_a_few_origins() -> None:
    """A bowl that bends a hundred times more one way than another, with noise on all numbers."""
    bends = np.geomspace(1.0, 100.0, 10)
    goal = rng(3).standard_normal(10) * 0.2
    noise = rng(4)

    def value(logs: Array) -> float:
        return float(bends @ np.square(logs - goal)) + 1e-3 * noise.standard_normal()

    box = np.full(10, -1.0), np.full(10, 1.0)
    here, history, tried = np.zeros(10), [], [np.zeros(10)]
    start = value(here)
    for _ in range(12):
        slopes = 2 * bends * (here - goal) + 0.02 * noise.standard_normal(10)
        history.append((slopes, np.full(10, 0.02)))
        place = Origin.after(history, logs=here)
        ends = []
        for _ in LENGTHS:
            tried.append(proposal(place, tried, box=box, rng=rng()))
            ends.append((value(tried[-1]), tried[-1]))
        best = min(ends, key=lambda end: end[0])
        if best[0] < value(here):
            here = best[1]
    assert value(here) < 0.1 * start


def test_optuna_gets_its_proposals() -> None:
    ranges: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(0.5, 2.0, log=True) for name in "abc"
    }
    sampler = DescentSampler(origin([3.0, 0.0, -4.0]), [], distributions=ranges, seed=1)
    trial = optuna.create_study(sampler=sampler).ask(fixed_distributions=ranges)
    assert [trial.params[name] for name in "abc"] == pytest.approx(np.exp([-0.1, 0.0, 0.1]))
