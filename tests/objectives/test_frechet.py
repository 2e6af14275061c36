from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.frechet import (
    expand,
    frechet_distance,
    frechet_of_moments,
    influence,
    spectrum,
)
from skiptune.objectives.reference import Reference

Array = NDArray[np.float64]
MakeReference = Callable[[Array, Array], Reference]


def covariance(generator: np.random.Generator, dim: int) -> Array:
    factor = generator.standard_normal((dim, dim))
    return factor @ factor.T / dim


def root_by_iteration(matrix: Array) -> Array:
    """Square root of a matrix, symmetric or not: Denman and Beavers 1976, no eigenvalues."""
    root, inverse = matrix.copy(), np.eye(len(matrix))
    for _ in range(60):
        root, inverse = (
            (root + np.linalg.inv(inverse)) / 2,
            (inverse + np.linalg.inv(root)) / 2,
        )
    np.testing.assert_allclose(root @ root, matrix, rtol=1e-9, atol=1e-9)
    return root


def test_diagonal_gaussians(make_reference: MakeReference) -> None:
    ours, theirs = np.array([1.0, 4.0, 0.25]), np.array([2.0, 1.0, 0.0625])
    shift = np.array([0.5, -1.0, 2.0])
    reference = make_reference(np.zeros(3), np.diag(theirs))
    expected = float(shift @ shift + ((np.sqrt(ours) - np.sqrt(theirs)) ** 2).sum())
    assert frechet_of_moments(shift, np.diag(ours), reference) == pytest.approx(
        expected, abs=1e-12
    )


def test_a_distribution_has_no_distance_to_itself(make_reference: MakeReference) -> None:
    generator = np.random.default_rng(0)
    spread, mean = covariance(generator, 20), generator.standard_normal(20)
    reference = make_reference(mean, spread)
    assert frechet_of_moments(mean, spread, reference) == pytest.approx(0, abs=1e-9)


def test_a_shift_costs_its_squared_length(make_reference: MakeReference) -> None:
    generator = np.random.default_rng(1)
    spread, shift = covariance(generator, 20), generator.standard_normal(20)
    reference = make_reference(np.zeros(20), spread)
    assert frechet_of_moments(shift, spread, reference) == pytest.approx(shift @ shift, rel=1e-9)


@given(seed=st.integers(0, 10_000), dim=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_equals_a_root_found_without_eigenvalues(seed: int, dim: int) -> None:
    generator = np.random.default_rng(seed)
    ours = covariance(generator, dim) + 0.05 * np.eye(dim)
    theirs = covariance(generator, dim) + 0.05 * np.eye(dim)
    reference = Reference("r", "x", "0", "p", dim, 10, np.zeros(dim), theirs, {})
    mean = generator.standard_normal(dim)
    root = root_by_iteration(ours @ theirs)
    expected = mean @ mean + np.trace(ours) + np.trace(theirs) - 2 * np.trace(root)
    assert frechet_of_moments(mean, ours, reference) == pytest.approx(expected, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("kind", ["random", "real"])
def test_equals_torch_fidelity(kind: str, fashion_features: Array) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    generator = np.random.default_rng(2)
    if kind == "random":
        ours = generator.standard_normal((500, 30)) @ generator.standard_normal((30, 30))
        theirs = generator.standard_normal((700, 30)) + 0.3
    else:
        ours, theirs = fashion_features[:900] * 1.1, fashion_features[900:]
    statistics = [fid_features_to_statistics(torch.from_numpy(rows)) for rows in (ours, theirs)]
    expected = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    dim = ours.shape[1]
    reference = Reference(
        "r", "x", "0", "p", dim, len(theirs), statistics[1]["mu"], statistics[1]["sigma"], {}
    )
    assert frechet_distance(ours, reference) == pytest.approx(expected, rel=1e-9)


def test_many_features_equal_torch_fidelity() -> None:
    """More than a tile of them, as real networks have."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    generator = np.random.default_rng(6)
    dim = 300
    means, spreads = (
        generator.standard_normal((2, dim)),
        [covariance(generator, dim) for _ in "ab"],
    )
    reference = Reference("r", "x", "0", "p", dim, 10, means[1], spreads[1], {})
    pair = [{"mu": m, "sigma": s} for m, s in zip(means, spreads, strict=True)]
    expected = fid_statistics_to_metric(*pair, False)["frechet_inception_distance"]
    traces = float(np.trace(spreads[0])) + reference.trace
    found = frechet_of_moments(means[0], spreads[0], reference)
    assert found == pytest.approx(expected, abs=1e-9 * traces)
    assert expand(means[0], spreads[0], reference).value == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("images", [5, 20, 39, 40])
def test_the_gram_route_is_the_full_one(make_reference: MakeReference, images: int) -> None:
    generator = np.random.default_rng(3)
    rows = generator.standard_normal((images, 40)) + 0.1
    reference = make_reference(np.zeros(40), covariance(generator, 40))
    mean, spread = rows.mean(axis=0), np.cov(rows, rowvar=False)
    # Rounding turns each zero eigenvalue of the full route into sqrt(1e-16): the Gram matrix has
    # none of them and is the better of the two.
    full = frechet_of_moments(mean, spread, reference)
    assert frechet_distance(rows, reference) == pytest.approx(full, abs=1e-5)
    slope = expand(mean, spread, reference)
    centred = rows - mean
    psi = centred @ slope.gradient + ((centred @ slope.curvature) * centred).sum(axis=1)
    np.testing.assert_allclose(influence(rows, reference), psi - psi.mean(), atol=1e-6)


@given(seed=st.integers(0, 10_000), images=st.integers(2, 40))
@settings(max_examples=30, deadline=None)
def test_order_does_not_matter(seed: int, images: int) -> None:
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((images, 8)).astype(np.float32)
    order = generator.permutation(images)
    reference = Reference("r", "x", "0", "p", 8, 9, np.zeros(8), np.eye(8), {})
    assert frechet_distance(rows[order], reference) == pytest.approx(
        frechet_distance(rows, reference), abs=1e-6
    )
    np.testing.assert_allclose(
        influence(rows[order], reference), influence(rows, reference)[order], atol=1e-5
    )


def weighted_distance(rows: Array, weights: Array, reference: Reference) -> float:
    """The distance of a weighted sample, scatter with divisor N as weights have it."""
    mean = weights @ rows / weights.sum()
    centred = rows - mean
    spread = (centred * weights[:, None]).T @ centred / weights.sum()
    return frechet_of_moments(mean, spread, reference)


def test_influence_is_the_derivative_in_an_image_s_weight(make_reference: MakeReference) -> None:
    generator = np.random.default_rng(4)
    count = 4000
    rows = np.maximum(generator.standard_normal((count, 6)) @ covariance(generator, 6), -0.2)
    reference = make_reference(np.full(6, 0.1), covariance(generator, 6))
    psi = influence(rows, reference)
    step = 1e-3
    for image in range(0, count, 500):
        values = []
        for sign in (1, -1):
            weights = np.ones(count)
            weights[image] += sign * step
            values.append(weighted_distance(rows, weights, reference))
        slope = (values[0] - values[1]) / (2 * step) * count
        # The divisors N and N - 1 differ by 1 / 4000.
        assert psi[image] == pytest.approx(slope, abs=2e-3 * float(psi.std()))


def test_influence_predicts_leaving_one_out(make_reference: MakeReference) -> None:
    generator = np.random.default_rng(5)
    rows = generator.standard_normal((1000, 5)) * 1.2
    reference = make_reference(np.zeros(5), np.eye(5))
    psi, whole = influence(rows, reference), frechet_distance(rows, reference)
    left_out = [
        (len(rows) - 1) * (whole - frechet_distance(np.delete(rows, image, axis=0), reference))
        for image in range(100)
    ]
    assert np.corrcoef(left_out, psi[:100])[0, 1] > 0.999
    assert psi.mean() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("features", "found"),
    [
        (np.zeros((10, 4)), r"\[10, 4\]"),
        (np.zeros(5), r"\[5\]"),
        (np.zeros((1, 5)), r"\[1, 5\]"),
        (np.full((10, 5), np.nan), "10 of 10"),
        (np.vstack([np.eye(5), np.full((1, 5), np.inf)]), "1 of 6"),
    ],
)
def test_features_that_do_not_fit_are_refused(
    make_reference: MakeReference, features: Array, found: str
) -> None:
    reference = make_reference(np.zeros(5), np.eye(5))
    for score in (frechet_distance, influence):
        with pytest.raises(ObjectiveError, match=found):
            score(features, reference)


def test_directions_without_spread_are_left_out(make_reference: MakeReference) -> None:
    generator = np.random.default_rng(7)
    product = covariance(generator, 6)
    product[4:], product[:, 4:] = 0, 0
    found = spectrum(product)
    inverse_root = found.half @ found.half.T
    np.testing.assert_allclose(
        inverse_root @ product @ inverse_root, np.diag([1, 1, 1, 1, 0, 0]), atol=1e-9
    )
    assert found.spanned == pytest.approx(found.roots)
    assert found.spanned == pytest.approx(np.trace(root_by_iteration(product[:4, :4])))
