from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives import moments, symmetric
from skiptune.objectives.frechet import expand, frechet_distance, frechet_of_moments, influence
from skiptune.objectives.paired import (
    HALVES,
    QUARTERS,
    Correction,
    Estimate,
    caution,
    corrected,
    corrected_influence,
    difference_of,
    paired_difference,
    raw,
    scored,
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
    assert estimate.value == pytest.approx(frechet_distance(rows, reference), rel=1e-12)
    assert estimate.images == 301
    psi = influence(rows, reference)
    assert estimate.standard_error == pytest.approx(psi.std(ddof=1) / np.sqrt(301), rel=1e-12)


@pytest.mark.parametrize("images", [8, 100, 250, 251])
def test_halves_are_split_by_parity(reference: Reference, images: int) -> None:
    rows = sample(images)
    whole = frechet_distance(rows, reference)
    parts = [frechet_distance(rows[parity::2], reference) for parity in (0, 1)]
    found = corrected(rows, reference, correction=HALVES, least_per_feature=0).value
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
        return corrected(rows + offset, made, least_per_feature=0)

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


@pytest.mark.parametrize("correction", [HALVES, QUARTERS], ids=["halves", "quarters"])
def test_influence_is_that_of_the_subsets(
    reference: Reference, correction: Correction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symmetric, "TILE", 4)
    rows, group = sample(203), np.arange(203) % 4
    expected = np.zeros(203)
    for share in correction:
        holders = sum(0 in subset for subset in share.subsets)
        for subset in share.subsets:
            inside = np.isin(group, subset)
            mean, spread = rows[inside].mean(axis=0), np.cov(rows[inside], rowvar=False)
            slope = expand(mean, spread, reference)
            centred = rows - mean
            psi = centred @ slope.gradient
            psi += np.einsum("nd,de,ne->n", centred, slope.curvature, centred)
            psi -= psi[inside].mean()
            expected[inside] += share.weight / holders * psi[inside]
    _, psi = corrected_influence(rows, reference, correction=correction)
    np.testing.assert_allclose(psi, expected, atol=1e-9)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(moments, "BLOCK", 32)
    yield


@pytest.mark.parametrize("cuts", [(), (1,), (5, 5, 6, 40, 41, 90), tuple(range(1, 99))])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_stream_scores_as_its_array_to_the_bit(
    reference: Reference, small_blocks: None, cuts: tuple[int, ...], dtype: type
) -> None:
    ours: NDArray[np.floating[Any]] = sample(99).astype(dtype)
    base: NDArray[np.floating[Any]] = sample(99, seed=2).astype(dtype)
    pieces = {id(rows): np.split(rows, cuts) for rows in (ours, base)}

    def stream(
        rows: NDArray[np.floating[Any]],
    ) -> Callable[[], Iterator[NDArray[np.floating[Any]]]]:
        return lambda: iter(pieces[id(rows)])

    assert raw(stream(ours), reference) == raw(ours, reference)
    assert corrected(stream(ours), reference) == corrected(ours, reference)
    assert paired_difference(stream(ours), stream(base), reference) == paired_difference(
        ours, base, reference
    )
    found, whole = scored(stream(ours), reference), scored(ours, reference)
    assert (found.raw, found.corrected) == (whole.raw, whole.corrected)
    np.testing.assert_array_equal(found.influence, whole.influence)


def test_scored_is_all_of_them_to_the_bit(reference: Reference) -> None:
    ours, base = sample(400), sample(400, seed=2) * 0.95
    found, other = scored(ours, reference), scored(base, reference)
    value, psi = corrected_influence(ours, reference)
    assert found.raw == raw(ours, reference)
    assert found.corrected == corrected(ours, reference)
    assert found.corrected.value == value
    np.testing.assert_array_equal(found.influence, psi)
    assert difference_of(found, other) == paired_difference(ours, base, reference)
    with pytest.raises(ObjectiveError, match="399 rows"):
        difference_of(scored(ours[:399], reference), other)


@pytest.mark.parametrize("images", [2, 5, 6])
def test_few_images_stream_through_their_gram_matrix(reference: Reference, images: int) -> None:
    rows = sample(images)
    found = raw(lambda: iter(np.split(rows, [1])), reference)
    assert found == raw(rows, reference)
    assert found.value == frechet_distance(rows, reference)


def test_few_images_score_alike_on_both_ways(reference: Reference) -> None:
    found = scored(sample(8)[:, :6], reference, least_per_feature=0)
    assert found.raw == raw(sample(8), reference)
    wide = Reference("r", "x", "0", "p", 12, 10, np.zeros(12), np.eye(12), {})
    rows = np.random.default_rng(0).standard_normal((9, 12))
    assert scored(rows, wide, least_per_feature=0).raw == raw(rows, wide)


def test_below_four_images_per_feature_nothing_is_corrected(reference: Reference) -> None:
    assert corrected(sample(24), reference).images == 24
    for refused in (
        lambda: corrected(sample(23), reference),
        lambda: corrected_influence(sample(23), reference),
        lambda: scored(sample(23), reference),
        lambda: paired_difference(sample(23), sample(23), reference),
    ):
        with pytest.raises(ObjectiveError, match="at least 24 images") as caught:
            refused()
        assert "KID" in caught.value.hint
        assert "projection" in caught.value.hint
    assert corrected(sample(23), reference, least_per_feature=0).images == 23
    assert raw(sample(23), reference).images == 23


def test_cautions() -> None:
    assert "cannot be corrected below 256 images" in str(caution(255, 64))
    assert "for a verdict use 512 images" in str(caution(256, 64))
    # Two chunks are the lowest rung of a study on 64 features.
    assert caution(499, 64) is not None
    for images in (500, 512, 2000):
        assert caution(images, 64) is None
    assert "1.56 per feature" in str(caution(400, 256))


@pytest.mark.parametrize("second", [99, 101, 300])
def test_a_source_that_changes_is_refused(reference: Reference, second: int) -> None:
    counts = iter([100, second])
    with pytest.raises(ObjectiveError, match="100 rows, as read before"):
        corrected(lambda: [sample(next(counts))], reference)


def test_pieces_of_other_features_are_refused(reference: Reference) -> None:
    with pytest.raises(ObjectiveError, match=r"\[3, 5\]"):
        corrected(lambda: [sample(100), np.zeros((3, 5))], reference)
    with pytest.raises(ObjectiveError, match=r"\[6\]"):
        raw(np.zeros(6), reference)
    with pytest.raises(ObjectiveError, match=r"\[0, 6\]"):
        corrected(lambda: [], reference)


def test_values_below_zero_are_numbers_like_others(reference: Reference) -> None:
    generator = np.random.default_rng(3)
    rows = generator.standard_normal((400, 6)) @ reference.root + reference.mean
    found = [
        corrected(rows[first : first + 40], reference, least_per_feature=0)
        for first in range(0, 400, 40)
    ]
    assert min(estimate.value for estimate in found) < 0
    assert all(np.isfinite(estimate.interval()).all() for estimate in found)
