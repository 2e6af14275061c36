from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.frechet import frechet_distance, frechet_of_moments, influence
from skiptune.objectives.paired import (
    HALVES,
    QUARTERS,
    Correction,
    Estimate,
    corrected,
    corrected_influence,
    paired_difference,
    raw,
)
from skiptune.objectives.reference import Reference

Array = NDArray[np.float64]
MakeReference = Callable[[Array, Array], Reference]


@pytest.fixture
def reference(make_reference: MakeReference) -> Reference:
    generator = np.random.default_rng(0)
    factor = generator.standard_normal((6, 6))
    return make_reference(np.full(6, 0.2), factor @ factor.T / 6)


def sample(images: int, *, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((images, 6)) * 1.1


def test_an_interval_is_normal() -> None:
    low, high = Estimate(2.0, 0.5, 100).interval()
    assert (low, high) == pytest.approx((2 - 0.5 * 1.959964, 2 + 0.5 * 1.959964), abs=1e-6)
    narrow = Estimate(2.0, 0.5, 100).interval(0.5)
    assert low < narrow[0] < 2 < narrow[1] < high


def test_raw_is_the_distance_with_the_influence_s_error(reference: Reference) -> None:
    rows = sample(301)
    estimate = raw(rows, reference)
    assert estimate.value == frechet_distance(rows, reference)
    assert estimate.images == 301
    psi = influence(rows, reference)
    assert estimate.standard_error == pytest.approx(psi.std(ddof=1) / np.sqrt(301), rel=1e-12)


@pytest.mark.parametrize("images", [8, 100, 250, 251])
def test_halves_are_split_by_parity(reference: Reference, images: int) -> None:
    rows = sample(images)
    whole = frechet_distance(rows, reference)
    parts = [frechet_distance(rows[parity::2], reference) for parity in (0, 1)]
    found = corrected(rows, reference, correction=HALVES).value
    # The halves of the smallest sample have 4 images, where the Gram route loses no digits.
    assert found == pytest.approx(2 * whole - sum(parts) / 2, abs=1e-6)


def test_quarters_are_the_three_sizes(reference: Reference) -> None:
    rows = sample(402)
    group = np.arange(402) % 4
    threes = [frechet_distance(rows[group != one], reference) for one in range(4)]
    pairs = [
        frechet_distance(rows[(group == one) | (group == two)], reference)
        for one in range(4)
        for two in range(one)
    ]
    expected = 8 * frechet_distance(rows, reference) - 9 * np.mean(threes) + 2 * np.mean(pairs)
    assert corrected(rows, reference).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("correction", "orders"), [(HALVES, 1), (QUARTERS, 2)])
def test_the_weights_cancel_that_many_orders_of_the_bias(
    correction: Correction, orders: int
) -> None:
    sizes = [(share.weight, len(share.subsets[0]) / 4) for share in correction]
    assert sum(weight for weight, _ in sizes) == pytest.approx(1)
    for order in range(1, orders + 1):
        assert sum(weight / size**order for weight, size in sizes) == pytest.approx(0)
    # Every image counts alike.
    for share in correction:
        held = [sum(group in subset for subset in share.subsets) for group in range(4)]
        assert len(set(held)) == 1


def weighted(rows: Array, weights: Array, reference: Reference, correction: Correction) -> float:
    """The corrected statistic of a weighted sample."""
    total = 0.0
    group = np.arange(len(rows)) % 4
    for share in correction:
        for subset in share.subsets:
            inside = np.isin(group, subset)
            part, weight = rows[inside], weights[inside] / weights[inside].sum()
            mean = weight @ part
            centred = part - mean
            value = frechet_of_moments(mean, (centred * weight[:, None]).T @ centred, reference)
            total += share.weight / len(share.subsets) * value
    return total


@pytest.mark.parametrize("correction", [HALVES, QUARTERS], ids=["halves", "quarters"])
def test_influence_is_the_derivative_of_the_corrected_statistic(
    reference: Reference, correction: Correction
) -> None:
    count = 4000
    rows = np.maximum(sample(count), -0.5)
    _, psi = corrected_influence(rows, reference, correction=correction)
    assert psi.mean() == pytest.approx(0, abs=1e-9)
    step = 1e-3
    for image in (0, 1, 2, 3, 1001, 2002, 3003):
        values = []
        for sign in (1, -1):
            weights = np.ones(count)
            weights[image] += sign * step
            values.append(weighted(rows, weights, reference, correction))
        slope = (values[0] - values[1]) / (2 * step) * count
        # The divisors n and n - 1 of the subsets differ by up to 1 / 2000.
        assert psi[image] == pytest.approx(slope, abs=4e-3 * float(psi.std()))


def test_a_paired_difference_is_the_difference_of_corrected_scores(reference: Reference) -> None:
    ours, base = sample(400) * 0.95, sample(400) + 0.05
    found = paired_difference(ours, base, reference)
    expected = corrected(ours, reference).value - corrected(base, reference).value
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.images == 400
    mirrored = paired_difference(base, ours, reference)
    assert mirrored.value == pytest.approx(-found.value, abs=1e-12)
    assert mirrored.standard_error == pytest.approx(found.standard_error, rel=1e-12)


def test_pairing_cancels_what_two_schedules_share(reference: Reference) -> None:
    base = sample(800) + 0.3
    ours = base + 0.02 * sample(800, seed=2)
    paired = paired_difference(ours, base, reference).standard_error
    alone = corrected(base, reference).standard_error
    assert paired < alone / 5
    same = paired_difference(base, base, reference)
    assert (same.value, same.standard_error) == (0, 0)


@given(seed=st.integers(0, 1000), images=st.integers(8, 60), constant=st.floats(-50, 50))
@settings(max_examples=25, deadline=None)
def test_moving_images_and_reference_together_changes_nothing(
    seed: int, images: int, constant: float
) -> None:
    rows = sample(images, seed=seed)

    def at(offset: float) -> Estimate:
        mean = np.full(6, offset)
        made = Reference("r", "x", "0", "p", 6, 10, mean, np.eye(6), {})
        return corrected(rows + offset, made)

    assert at(constant).value == pytest.approx(at(0).value, abs=1e-5)
    assert at(constant).standard_error == pytest.approx(at(0).standard_error, abs=1e-5)


def test_float32_rows_score_as_stored(reference: Reference) -> None:
    rows = sample(300).astype(np.float32)
    assert corrected(rows, reference) == corrected(rows.astype(np.float64), reference)


def test_unequal_counts_are_refused(reference: Reference) -> None:
    with pytest.raises(ObjectiveError, match="300 rows"):
        paired_difference(sample(250), sample(300), reference)


@pytest.mark.parametrize("images", [2, 7])
def test_too_few_images_are_refused(reference: Reference, images: int) -> None:
    with pytest.raises(ObjectiveError, match="N >= 8"):
        corrected(sample(images), reference)


def test_features_that_are_not_finite_are_refused(reference: Reference) -> None:
    rows = sample(100)
    rows[3, 2] = np.nan
    with pytest.raises(ObjectiveError, match="1 of 100"):
        paired_difference(rows, sample(100), reference)
