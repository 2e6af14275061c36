"""What each scale does: slopes by hand, planes that are known, ranks, and too little of all."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution

from skiptune.search.sensitivities import (
    LEAST_IMPORTANT,
    from_scores,
    from_slopes,
    importances,
)
from skiptune.search.slope_map import Slopes

NAMES = ("a", "b", "c")


def test_slopes_become_changes_of_a_tenth_more() -> None:
    # Two blocks, two skips, two noise levels: sums of 3 and 5, and of -2 and -2.
    blocks = np.array([[[1.0, 2.0], [-1.0, -1.0]], [[2.0, 3.0], [-1.0, -1.0]]])
    found = from_slopes(Slopes(blocks, (80.0, 1.0), 0.0), ["x", "y"], baseline=10.0, of="best")
    first, second = found.rows
    assert first.change == pytest.approx(4 * math.log(1.1) / 10)
    # Of the mean of two: half of the difference.
    assert first.error == pytest.approx(1 * math.log(1.1) / 10)
    assert second.name == "y"
    cells = found.by_level
    assert cells is not None and cells.levels == (80.0, 1.0)
    assert [sum(row) for row in cells.changes] == pytest.approx([first.change, second.change])
    # Level by level 1 and 2, and 2 and 3.
    assert cells.changes[0][1] == pytest.approx(2.5 * math.log(1.1) / 10)
    assert cells.errors[0][1] == pytest.approx(0.5 * math.log(1.1) / 10)
    assert second.change == pytest.approx(-2 * math.log(1.1) / 10)
    assert "2 blocks" in found.of


def test_a_plane_is_found_and_its_errors_are_those_of_repeats() -> None:
    slopes = np.array([0.5, -0.2, 0.0])
    rng = np.random.default_rng(3)
    logs = rng.normal(0, 0.1, (20, 3))
    changes, errors = [], []
    for _ in range(400):
        gains = 0.05 - logs @ slopes + rng.normal(0, 0.01, 20)
        found = from_scores(logs, gains, NAMES)
        assert found.how == "regression"
        changes.append([row.change for row in found.rows])
        errors.append([row.error for row in found.rows])
    times = math.log(1.1)
    spread = np.std(changes, axis=0)
    np.testing.assert_allclose(np.mean(changes, axis=0), slopes * times, atol=4 * 0.003 / 20)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(errors), axis=0)), spread, rtol=0.15)


def test_few_schedules_are_ranked() -> None:
    logs = np.array([[0.1, 1.0, 0.0], [0.2, 3.0, 0.0], [0.3, 2.0, 0.0], [0.4, 5.0, 0.0],
                     [0.5, 4.0, 0.0]])  # fmt: skip
    found = from_scores(logs, -logs[:, 0], NAMES)
    assert found.how == "ranks"
    # Larger scales of a are worse without exception; c was never moved.
    assert [row.change for row in found.rows] == [1.0, pytest.approx(0.8), 0.0]
    assert found.rows[2].error == 1.0


def test_directions_that_were_never_tried_have_no_plane() -> None:
    rng = np.random.default_rng(5)
    along = rng.normal(0, 0.1, (30, 1)) * np.array([[1.0, 2.0, -1.0]])
    assert from_scores(along, rng.normal(size=30), NAMES).how == "ranks"


@pytest.mark.parametrize("count", [0, 1, 4])
def test_too_few_tell_nothing(count: int) -> None:
    logs = np.arange(3.0 * count).reshape(count, 3)
    found = from_scores(logs, np.arange(float(count)), NAMES)
    assert found.how == "nothing" and not found.rows


def test_importances_point_at_what_decides() -> None:
    rng = np.random.default_rng(11)
    ranges: dict[str, BaseDistribution] = {
        name: FloatDistribution(0.5, 2.0, log=True) for name in NAMES
    }
    params = [{name: float(np.exp(rng.uniform(-0.69, 0.69))) for name in NAMES} for _ in range(60)]
    values = [math.log(one["b"]) ** 2 for one in params]
    found = importances(params, values, ranges)
    assert sum(found.values()) == pytest.approx(1)
    assert max(found, key=lambda name: found[name]) == "b"
    few = LEAST_IMPORTANT - 1
    assert importances(params[:few], values[:few], ranges) == {}
    assert importances(params, [1.0] * 60, ranges) == {}
