"""Products that are symmetric: one triangle is computed, in tiles, and the other is its copy.

This is what a BLAS `syrk` saves, and more: a tile is still in the cache when it is added to a
sum, which numpy's own products are not. Matrices whose tiles below the diagonal are not filled
in are called upper here; the tiles on the diagonal are always whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["TILE", "add_gram", "congruence", "double_upper", "mirror", "quadratic_form"]

Array = NDArray[np.float64]

TILE = 512
"""Columns of a tile: 2 MB, the size of a core's cache, and large enough for full speed."""


def add_gram(rows: Array, into: Sequence[tuple[float, Array]]) -> None:
    """Add a weight times rows' rows to each of several upper matrices.

    Arguments:
        rows: float64 [n, d]; n = 0 adds nothing.
        into: Weights and float64 [d, d], changed in place.
    """
    if not len(rows):
        return
    for first, last in _tiles(rows.shape[1]):
        right = rows[:, first:last]
        # numpy sees that both factors are one array and computes one triangle.
        _add(right.T @ right, (slice(first, last), slice(first, last)), into)
        if first:
            _add(rows[:, :first].T @ right, (slice(first), slice(first, last)), into)


def mirror(matrix: Array) -> None:
    """Fill in the tiles below the diagonal of an upper matrix [d, d], in place."""
    for first, last in _tiles(len(matrix)):
        matrix[first:last, :first] = matrix[:first, first:last].T


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
        product[:last, first:last] = factor[:, :last].T @ mapped[:, first:last]
        square = product[first:last, first:last]
        square[...] = (square + square.T) / 2
    mirror(product)
    return product


def double_upper(matrix: Array) -> None:
    """Prepare an upper matrix [d, d] for `quadratic_form`, in place."""
    for first, last in _tiles(len(matrix)):
        matrix[:first, first:last] *= 2


def quadratic_form(rows: Array, doubled: Array) -> Array:
    """Return x' M x for each row x.

    Arguments:
        rows: float64 [n, d].
        doubled: M [d, d] after `double_upper`.

    Returns:
        float64 [n].
    """
    values = np.zeros(len(rows))
    for first, last in _tiles(len(doubled)):
        bent = rows[:, :last] @ doubled[:last, first:last]
        values += np.einsum("nd,nd->n", bent, rows[:, first:last])
    return values


def _tiles(size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, size, TILE):
        yield first, min(first + TILE, size)


def _add(tile: Array, place: tuple[slice, slice], into: Sequence[tuple[float, Array]]) -> None:
    for weight, target in into:
        target[place] += tile if weight == 1 else weight * tile
