from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from skiptune.objectives import symmetric
from skiptune.objectives.symmetric import (
    add_gram,
    congruence,
    double_lower,
    mirror,
    quadratic_form,
)

Array = NDArray[np.float64]


@pytest.fixture(autouse=True, params=[3, 256])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(symmetric, "TILE", request.param)
    yield


def draw(*shape: int) -> Array:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape)


@pytest.mark.parametrize("dim", [1, 3, 7, 9])
def test_grams_are_added_with_their_weights(dim: int) -> None:
    rows = draw(11, dim)
    first, second = np.ones((dim, dim)), np.zeros((dim, dim))
    add_gram(rows, [(1, first), (-2.5, second)])
    add_gram(rows[:0], [(1, first)])
    mirror(first)
    mirror(second)
    np.testing.assert_allclose(first, 1 + rows.T @ rows, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(second, -2.5 * rows.T @ rows, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(second, second.T)


@pytest.mark.parametrize(("dim", "size"), [(1, 1), (7, 7), (7, 4), (5, 8)])
def test_a_congruence_is_its_product(dim: int, size: int) -> None:
    factor, matrix = draw(dim, size), draw(dim, dim)
    matrix = matrix + matrix.T
    found = congruence(factor, matrix)
    np.testing.assert_allclose(found, factor.T @ matrix @ factor, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("dim", [1, 3, 7])
def test_a_quadratic_form_is_its_sum(dim: int) -> None:
    rows, matrix = draw(5, dim), draw(dim, dim)
    matrix = matrix + matrix.T
    expected = [row @ matrix @ row for row in rows]
    lower = matrix.copy()
    if symmetric.TILE < dim:
        lower[: symmetric.TILE, symmetric.TILE :] = np.nan
    double_lower(lower)
    np.testing.assert_allclose(quadratic_form(rows, lower), expected, rtol=1e-12, atol=1e-12)
