"""Products that are symmetric: one triangle is computed, in tiles, and the other is its copy.

This is what a BLAS `syrk` saves, and more: a tile is still in the cache when it is added to a
sum, which numpy's own products are not. Matrices whose tiles above the diagonal are not filled
in are called lower here; the tiles on the diagonal are always whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["TILE", "add_gram", "congruence", "double_lower", "mirror", "quadratic_form"]

Array = NDArray[np.float64]

TILE = 256
"""Rows of a tile: its sums stay in the cache, and products are still at full speed."""


def add_gram(rows: Array, into: Sequence[tuple[float, Array]]) -> None:
    """Add a weight times rows' rows to each of several lower matrices.

    Arguments:
        rows: float64 [n, d]; n = 0 adds nothing.
        into: Weights and float64 [d, d], changed in place.
    """
    if not len(rows):
        return
    for first, last in _tiles(rows.shape[1]):
        left = rows[:, first:last].T
        # numpy sees that both factors are one array and computes one triangle.
        _add(left @ left.T, (slice(first, last), slice(first, last)), into)
        if first:
            _add(left @ rows[:, :first], (slice(first, last), slice(first)), into)


def mirror(matrix: Array) -> None:
    """Fill in the tiles above the diagonal of a lower matrix [d, d], in place."""
    for first, last in _tiles(len(matrix)):
        matrix[:first, first:last] = matrix[first:last, :first].T


def congruence(factor: Array, matrix: Array) -> Array:
    """Return factor' matrix factor, float64 [k, k], exactly symmetric.

    Arguments:
        factor: float64 [d, k].
        matrix: float64 [d, d], symmetric.
    """
    mapped = matrix @ factor
    size = factor.shape[1]
    product = np.empty((size, size))
    for first, last in _tiles(size):
        product[first:last, :last] = factor[:, first:last].T @ mapped[:, :last]
        square = product[first:last, first:last]
        square[...] = (square + square.T) / 2
    mirror(product)
    return product


def double_lower(matrix: Array) -> None:
    """Prepare a lower matrix [d, d] for `quadratic_form`, in place."""
    for first, last in _tiles(len(matrix)):
        matrix[first:last, :first] *= 2


def quadratic_form(rows: Array, doubled: Array) -> Array:
    """Return x' M x for each row x.

    Arguments:
        rows: float64 [n, d].
        doubled: M [d, d] after `double_lower`.

    Returns:
        float64 [n].
    """
    values = np.zeros(len(rows))
    for first, last in _tiles(len(doubled)):
        bent = rows[:, :last] @ doubled[first:last, :last].T
        values += np.einsum("nd,nd->n", bent, rows[:, first:last])
    return values


def _tiles(size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, size, TILE):
        yield first, min(first + TILE, size)


def _add(tile: Array, place: tuple[slice, slice], into: Sequence[tuple[float, Array]]) -> None:
    for weight, target in into:
        target[place] += tile if weight == 1 else weight * tile
