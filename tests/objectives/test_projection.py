from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives import moments
from skiptune.objectives.frechet import frechet_distance, frechet_of_moments
from skiptune.objectives.names import metric_name
from skiptune.objectives.paired import scored
from skiptune.objectives.projection import Projection, projected_name
from skiptune.objectives.reference import Reference

Array = NDArray[np.float64]
MakeReference = Callable[[Array, Array], Reference]

DIM = 9


def spread(generator: np.random.Generator) -> Array:
    factor = generator.standard_normal((DIM, DIM))
    return factor @ factor.T / DIM


def made(seed: int) -> tuple[Array, Array, Reference]:
    """A baseline's moments and a reference."""
    generator = np.random.default_rng(seed)
    mean = generator.standard_normal(DIM)
    reference = Reference("r", "net", "0", "p", DIM, 10, mean, spread(generator), {"data": "x"})
    return generator.standard_normal(DIM), spread(generator), reference


def test_all_directions_keep_the_distance() -> None:
    mean, covariance, reference = made(0)
    rows = np.random.default_rng(1).standard_normal((200, DIM)).astype(np.float32)
    onto = Projection.of(mean, covariance, reference, DIM)
    assert onto.explained == pytest.approx(1)
    small = onto.reference(reference)
    assert frechet_distance(onto.project(rows), small) == pytest.approx(
        frechet_distance(rows, reference), rel=1e-9
    )
    found, whole = scored(onto.project(rows), small), scored(rows, reference)
    assert found.corrected.value == pytest.approx(whole.corrected.value, rel=1e-9)
    np.testing.assert_allclose(found.influence, whole.influence, rtol=1e-8, atol=1e-8)


@given(seed=st.integers(0, 10_000), dims=st.integers(1, DIM))
@settings(max_examples=50, deadline=None)
def test_a_projection_is_orthonormal_and_never_lengthens(seed: int, dims: int) -> None:
    mean, covariance, reference = made(seed)
    onto = Projection.of(mean, covariance, reference, dims)
    np.testing.assert_allclose(onto.matrix.T @ onto.matrix, np.eye(dims), atol=1e-12)
    inside = frechet_of_moments(
        mean @ onto.matrix, onto.matrix.T @ covariance @ onto.matrix, onto.reference(reference)
    )
    assert inside <= frechet_of_moments(mean, covariance, reference) * (1 + 1e-9)


def test_directions_are_those_of_both_samples_pooled() -> None:
    generator = np.random.default_rng(2)
    ours, theirs = generator.standard_normal((2, 400, DIM)) * np.arange(1, DIM + 1)
    ours += 3
    reference = Reference(
        "r", "net", "0", "p", DIM, 400, theirs.mean(axis=0), np.cov(theirs.T, ddof=0), {}
    )
    onto = Projection.of(ours.mean(axis=0), np.cov(ours.T, ddof=0), reference, 4)
    pooled = np.concatenate([ours, theirs])
    _, sizes, directions = np.linalg.svd(pooled - pooled.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.diag(directions[:4] @ onto.matrix)), 1, atol=1e-9)
    assert onto.explained == pytest.approx((sizes[:4] ** 2).sum() / (sizes**2).sum())
    variances = np.var(pooled @ onto.matrix, axis=0)
    assert all(one > two for one, two in pairwise(variances))


def test_a_difference_of_means_alone_is_seen() -> None:
    reference = Reference("r", "net", "0", "p", DIM, 10, np.zeros(DIM), np.eye(DIM) * 0.01, {})
    shift = np.zeros(DIM)
    shift[4] = -5.0
    onto = Projection.of(shift, np.eye(DIM) * 0.01, reference, 1)
    np.testing.assert_allclose(onto.matrix[:, 0], np.eye(DIM)[4], atol=1e-12)
    inside = frechet_of_moments(shift @ onto.matrix, np.eye(1) * 0.01, onto.reference(reference))
    assert inside == pytest.approx(25)


def test_diagonal_gaussians_keep_their_largest_terms() -> None:
    ours, theirs = np.arange(1.0, DIM + 1), np.arange(1.0, DIM + 1)[::-1] ** 2 + 20
    reference = Reference("r", "net", "0", "p", DIM, 10, np.zeros(DIM), np.diag(theirs), {})
    kept = np.argsort(ours + theirs)[::-1][:3]
    onto = Projection.of(np.zeros(DIM), np.diag(ours), reference, 3)
    np.testing.assert_allclose(onto.matrix, np.eye(DIM)[:, kept], atol=1e-12)
    inside = frechet_of_moments(
        np.zeros(3), onto.matrix.T @ np.diag(ours) @ onto.matrix, onto.reference(reference)
    )
    assert inside == pytest.approx(((np.sqrt(ours) - np.sqrt(theirs))[kept] ** 2).sum())


@pytest.mark.parametrize("seed", range(5))
def test_signs_are_fixed(seed: int) -> None:
    mean, covariance, reference = made(seed)
    matrix = Projection.of(mean, covariance, reference, 5).matrix
    assert (matrix[np.abs(matrix).argmax(axis=0), np.arange(5)] > 0).all()
    # Rounding of the inputs flips none of them.
    again = Projection.of(mean, covariance * (1 + 1e-14), reference, 5).matrix
    np.testing.assert_allclose(again, matrix, atol=1e-9)


def test_a_projected_reference_says_what_it_is() -> None:
    mean, covariance, reference = made(0)
    onto = Projection.of(mean, covariance, reference, 4)
    small = onto.reference(reference)
    assert (small.dim, small.images, small.sha256) == (4, 10, "0")
    assert small.extractor == projected_name("net", 4) == "net,pca-4"
    assert small.preprocess == f"p; projection {onto.digest}"
    assert small.header["data"] == "x"
    other = Projection.of(mean + 1, covariance, reference, 4).reference(reference)
    assert small.digest != other.digest
    np.testing.assert_allclose(small.mean, onto.matrix.T @ reference.mean)
    np.testing.assert_allclose(
        small.covariance, onto.matrix.T @ reference.covariance @ onto.matrix
    )
    name = metric_name(projected_name("inception", 256), 2000, corrected=True)
    assert name == "FD(inception,pca-256)-2k-corrected"


@pytest.mark.parametrize("cuts", [(), (1, 2, 50)])
def test_features_may_stream(monkeypatch: pytest.MonkeyPatch, cuts: tuple[int, ...]) -> None:
    monkeypatch.setattr(moments, "BLOCK", 16)
    rows = np.random.default_rng(3).standard_normal((60, DIM)).astype(np.float32)
    _, _, reference = made(0)

    def source() -> list[NDArray[np.float32]]:
        return np.split(rows, cuts)

    onto = Projection.of_features(source, reference, 5)
    whole = Projection.of(rows.mean(axis=0, dtype=np.float64), np.cov(rows.T), reference, 5)
    np.testing.assert_allclose(onto.matrix, whole.matrix, atol=1e-6)
    assert onto.digest == Projection.of_features(rows, reference, 5).digest
    projected = np.concatenate(list(onto.stream(source)()))
    np.testing.assert_array_equal(projected, np.concatenate(list(onto.stream(lambda: [rows])())))
    np.testing.assert_allclose(projected, rows.astype(np.float64) @ onto.matrix, atol=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    mean, covariance, reference = made(0)
    for dims in (0, DIM + 1):
        with pytest.raises(ObjectiveError, match="1 to 9 dimensions"):
            Projection.of(mean, covariance, reference, dims)
    with pytest.raises(ObjectiveError, match=r"\[8\] and \[9, 9\]"):
        Projection.of(mean[:8], covariance, reference, 2)
    onto = Projection.of(mean, covariance, reference, 2)
    with pytest.raises(ObjectiveError, match=r"\[3, 2\]"):
        onto.project(np.zeros((3, 2)))
    with pytest.raises(ObjectiveError, match="found 2"):
        onto.reference(onto.reference(reference))
    with pytest.raises(ObjectiveError, match="NaN"):
        Projection.of_features(np.full((10, DIM), np.nan), reference, 2)
