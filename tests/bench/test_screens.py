"""Screens that order schedules: against made-up ones whose order is known."""

from __future__ import annotations

import numpy as np
import pytest

from bench.screens import (
    Measure,
    Screen,
    _savings,
    correlation,
    frechet_measure,
    kept,
    loss_measure,
    screened,
)
from skiptune.objectives.paired import corrected, difference_of, scored
from skiptune.objectives.ranks import rank_correlation
from skiptune.objectives.reference import load_reference

REFERENCE = load_reference("fashion-train")
DIM = REFERENCE.dim


def made_up(schedules: int, images: int) -> np.ndarray:
    """Images of common seeds that drift from the reference, further with every schedule."""
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(REFERENCE.covariance + 1e-6 * np.eye(DIM))
    noise = rng.standard_normal((images, DIM)) @ root.T + REFERENCE.mean
    far = np.linspace(0.1, 1.0, schedules)[:, None, None]
    drift = far * np.sqrt(np.diag(REFERENCE.covariance))
    return np.asarray(noise[None] + drift, dtype=np.float32)


def test_distances_are_the_corrected_ones_and_their_parts_the_influence() -> None:
    features = made_up(2, 300)
    found = frechet_measure(features, REFERENCE)
    assert found.values == pytest.approx([corrected(one, REFERENCE).value for one in features])
    # The bootstrap's spread of a difference is the paired standard error.
    rng = np.random.default_rng(1)
    weights = rng.multinomial(300, np.full(300, 1 / 300), size=4000) / 300
    ends = found.resampled(weights)
    one, other = (scored(rows, REFERENCE) for rows in features)
    assert np.std(ends[:, 1] - ends[:, 0]) == pytest.approx(
        difference_of(other, one).standard_error, rel=0.05
    )


def test_losses_are_mean_squared_differences() -> None:
    features = made_up(3, 20)
    found = loss_measure(features, features[0])
    by_hand = [float(((one - features[0]).astype(float) ** 2).mean()) for one in features]
    assert found.values == pytest.approx(by_hand)
    assert found.parts.mean(axis=1) == pytest.approx(np.zeros(3), abs=1e-12)


def test_the_interval_holds_the_correlation_of_noiseless_values() -> None:
    rng = np.random.default_rng(2)
    schedules, images = 30, 200
    true = [rng.normal(size=schedules)]
    true.append(true[0] + 0.7 * rng.normal(size=schedules))
    wanted = rank_correlation(true[0].tolist(), true[1].tolist()).value
    inside = 0
    for _ in range(40):
        noisy = []
        for values in true:
            rows = values[:, None] + 4 * rng.normal(size=(schedules, images))
            means = rows.mean(axis=1)
            noisy.append(Measure(means, rows - means[:, None]))
        _, low, high = correlation(noisy[0], noisy[1], rng)
        inside += low <= wanted <= high
    assert inside >= 34  # of 40; 95 % are 38


def test_the_best_are_kept_where_the_order_is_the_same() -> None:
    values = np.arange(30.0)
    assert kept(values, values) == 5
    assert kept(-values, values) == 0


def test_a_screen_saves_where_fewer_images_order_as_well() -> None:
    def screen(name: str, images: int, value: float) -> Screen:
        return Screen(name, "linear", 49, images, 1000 - images, value, 0.0, 1.0, 5)

    rung = screen("FD", 500, 0.9)
    better, worse = screen("teacher loss", 100, 0.95), screen("teacher loss", 100, 0.5)
    found = [rung, better, worse, screen("baseline distance", 50, 0.9)]
    assert _savings(worse, found) == {"saved": None, "saved_in_all": None}
    saved = _savings(better, found)
    assert saved["saved"] == 400
    assert saved["saved_in_all"] == pytest.approx(24 * 400 - 100 * 35 / 6)
    assert _savings(found[3], found) == {"saved": 450, "saved_in_all": 24 * 450}


def test_drifting_schedules_are_ordered_by_every_screen() -> None:
    features = made_up(12, 800)
    found = screened("linear", features, features[0], features[0], REFERENCE)
    assert {(one.name, one.images) for one in found} >= {("FD", 250), ("teacher loss", 50)}
    for one in found:
        assert one.value > 0.99 and one.kept >= 4 and one.low <= one.value <= one.high
        assert one.truth_images == 300
