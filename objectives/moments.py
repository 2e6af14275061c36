"""Means and covariances of features that arrive in pieces, in float64.

Rows are collected into blocks of a fixed size and reduced block by block in the order in which
they came, so the result has the same bits however the caller slices them. Everything is taken
about the mean of the first block: N m m' is then small against the sum of squares, and no digits
cancel (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance").

`groups` keeps separate sums for the rows with equal row % groups, which costs no further
arithmetic: the corrections for the bias in N (`paired`) are made of subsets of four groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.symmetric import add_gram, mirror

__all__ = ["BLOCK", "Moments", "Part", "Rows", "in_blocks"]

Array = NDArray[np.float64]

Rows = Callable[[], Iterable[NDArray[np.floating[Any]]]]
"""Feature rows in pieces [n, d] of any n, in seed order; every call begins anew."""

BLOCK = 4096
"""Rows reduced at once: 67 MB at d = 2048, and enough work for each pass over the products."""


@dataclass(frozen=True, eq=False)
class Part:
    """Moments of one group of rows, about the centre of all.

    Arguments:
        count: Rows n in the group.
        total: float64 [d]: sum of x - centre.
        product: float64 [d, d]: sum of (x - centre)(x - centre)'.
    """

    count: int
    total: Array
    product: Array


class Moments:
    """First and second moments of feature rows, streamed.

    State takes (groups d^2 + BLOCK d) float64 numbers, whatever the number of rows.

    Arguments:
        dim: Features d, at least 1.
        groups: Row i counts in group i % groups; a divisor of `BLOCK`.

    Raises:
        ObjectiveError: When `dim` or `groups` is not as said.
    """

    def __init__(self, dim: int, *, groups: int = 1) -> None:
        if dim < 1 or groups < 1 or BLOCK % groups:
            raise ObjectiveError(
                "moments",
                expected=f"at least 1 feature, and groups that divide {BLOCK}",
                found=f"{dim} features in {groups} groups",
                hint="use 1 group, or 4 as the corrections for the bias in N do",
            )
        self.dim = dim
        self.groups = groups
        self._centre: Array | None = None
        self._counts = [0] * groups
        self._totals = np.zeros((groups, dim))
        # Made with the first whole block: most samples of few features never fill one.
        self._products: Array | None = None
        self._waiting: Array | None = None
        self._filled = 0

    @property
    def count(self) -> int:
        """Rows N seen so far."""
        return sum(self._counts) + self._filled

    def add(self, rows: ArrayLike) -> None:
        """Take rows in; either all of them or, on an error, none.

        Arguments:
            rows: [n, d] of numbers, n >= 0, in the order of their seeds.

        Raises:
            ObjectiveError: When they are not [n, d] or not finite.
        """
        given = np.asarray(rows)
        if given.ndim != 2 or given.shape[1] != self.dim or given.dtype.kind not in "fiu":
            raise ObjectiveError(
                "features",
                expected=f"numbers [n, {self.dim}]",
                found=f"{given.dtype} {list(given.shape)}",
                hint="extract all of them with one extractor",
            )
        pieces = [given[first : first + BLOCK] for first in range(0, len(given), BLOCK)]
        bad = sum(int((~np.isfinite(piece).all(axis=1)).sum()) for piece in pieces)
        if bad:
            raise ObjectiveError(
                "features",
                expected="finite numbers",
                found=f"NaN or infinity in {bad} of {len(given)} rows from row {self.count} on",
                hint="leave out the images whose features are not finite",
            )
        for piece in pieces:
            self._take(piece)

    @property
    def mean(self) -> Array:
        """The mean of the rows, float64 [d].

        Raises:
            ObjectiveError: Before the first row.
        """
        self._require(1)
        centre, parts = self.parts(products=False)
        mean: Array = centre + np.sum([part.total for part in parts], axis=0) / self.count
        return mean

    @property
    def covariance(self) -> Array:
        """The covariance of the rows, float64 [d, d], symmetric, divisor N - 1.

        Raises:
            ObjectiveError: Below two rows.
        """
        self._require(2)
        _, parts = self.parts()
        product = parts[0].product
        for part in parts[1:]:
            product += part.product
        offset = np.sum([part.total for part in parts], axis=0) / self.count
        product -= self.count * np.outer(offset, offset)
        product /= self.count - 1
        return product

    def parts(self, *, products: bool = True) -> tuple[Array, list[Part]]:
        """Return the centre, float64 [d], and each group's moments about it.

        Nothing changes: rows may still be added. The arrays are copies.

        Arguments:
            products: Whether second moments are wanted; without, `product` is [0, 0].

        Raises:
            ObjectiveError: Before the first row.
        """
        self._require(1)
        centre, waiting = self._centred()
        phase = sum(self._counts)
        parts = []
        for group in range(self.groups):
            rows = waiting[(group - phase) % self.groups :: self.groups]
            product = np.zeros((0, 0))
            if products:
                shape = (self.dim, self.dim)
                product = (
                    np.zeros(shape) if self._products is None else self._products[group].copy()
                )
                add_gram(rows, [(1, product)])
                mirror(product)
            parts.append(
                Part(
                    count=self._counts[group] + len(rows),
                    total=self._totals[group] + rows.sum(axis=0),
                    product=product,
                )
            )
        return centre, parts

    def merge(self, other: Moments) -> None:
        """Append the rows that another has seen after those of this one.

        Their groups go on from this one's count. Equal to one pass over all rows up to rounding
        in the 16th digit, and to the bit whenever the same pieces are merged in the same order.

        Arguments:
            other: Of as many features and groups; it stays as it is.

        Raises:
            ObjectiveError: When features or groups differ.
        """
        if (other.dim, other.groups) != (self.dim, self.groups):
            raise ObjectiveError(
                "moments to merge",
                expected=f"{self.dim} features in {self.groups} groups",
                found=f"{other.dim} features in {other.groups} groups",
                hint="merge moments of one extractor",
            )
        if other.count == 0:
            return
        seen = self.count
        centre, parts = other.parts()
        if self._centre is None and not self._filled:
            self._centre = centre
        self._close()
        assert self._centre is not None and self._products is not None
        shift = centre - self._centre
        for group, part in enumerate(parts):
            place = (group + seen) % self.groups
            crossed = np.outer(part.total, shift)
            self._products[place] += part.product + crossed + crossed.T
            self._products[place] += part.count * np.outer(shift, shift)
            self._totals[place] += part.total + part.count * shift
            self._counts[place] += part.count

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the whole state as named arrays, from which `from_arrays` goes on bit by bit.

        Returns:
            `layout` int64 [3]: features, groups and block size; `counts` int64 [groups];
            `centre` float64 [d], or [0] before it is known; `totals` float64 [groups, d];
            `products` float64 [groups, d, d], or [0, d, d]; `waiting` float64 [n, d], the rows
            of the unfinished block.
        """
        waiting = self._waiting
        return {
            "layout": np.array([self.dim, self.groups, BLOCK], dtype=np.int64),
            "counts": np.array(self._counts, dtype=np.int64),
            "centre": np.zeros(0) if self._centre is None else self._centre.copy(),
            "totals": self._totals.copy(),
            "products": np.zeros((0, self.dim, self.dim))
            if self._products is None
            else self._products.copy(),
            "waiting": np.zeros((0, self.dim))
            if waiting is None
            else waiting[: self._filled].copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Moments:
        """Return moments that go on where `to_arrays` left off.

        Raises:
            ObjectiveError: When the arrays are not such a state, or of another block size.
        """
        try:
            dim, groups, block = (int(number) for number in arrays["layout"])
            moments = cls(dim, groups=groups)
            counts = arrays["counts"]
            centre, totals = arrays["centre"], arrays["totals"]
            products, waiting = arrays["products"], arrays["waiting"]
            fits = (
                block == BLOCK
                and counts.shape == (groups,)
                and counts.dtype.kind == "i"
                and centre.shape in ((0,), (dim,))
                and totals.shape == (groups, dim)
                and products.shape in ((0, dim, dim), (groups, dim, dim))
                and waiting.ndim == 2
                and waiting.shape[1] == dim
                and len(waiting) < BLOCK
                and all(a.dtype == np.float64 for a in (centre, totals, products, waiting))
                and all(np.isfinite(a).all() for a in (centre, totals, products, waiting))
                and (len(centre) > 0) == (len(products) > 0) == bool(counts.any())
                and (counts >= 0).all()
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise _not_a_state(f"{type(error).__name__}: {error}") from error
        if not fits:
            raise _not_a_state(
                ", ".join(
                    f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items()
                )
            )
        if len(centre):
            moments._centre = np.array(centre)
            moments._products = np.array(products)
        moments._counts = [int(number) for number in counts]
        moments._totals = np.array(totals)
        if len(waiting):
            moments._waiting = np.empty((BLOCK, dim))
            moments._waiting[: len(waiting)] = waiting
            moments._filled = len(waiting)
        return moments

    def _take(self, rows: NDArray[Any]) -> None:
        while len(rows):
            if self._waiting is None:
                self._waiting = np.empty((BLOCK, self.dim))
            taken = rows[: BLOCK - self._filled]
            place = self._waiting[self._filled : self._filled + len(taken)]
            if self._centre is None:
                place[...] = taken
            else:
                np.subtract(taken, self._centre, out=place)
            self._filled += len(taken)
            rows = rows[len(taken) :]
            if self._filled == BLOCK:
                self._close()

    def _close(self) -> None:
        """Reduce the waiting rows."""
        if self._centre is None:
            assert self._waiting is not None
            rows = self._waiting[: self._filled]
            self._centre = rows.mean(axis=0)
            rows -= self._centre
        if self._products is None:
            self._products = np.zeros((self.groups, self.dim, self.dim))
        if self._waiting is None or not self._filled:
            return
        phase = sum(self._counts)
        for group in range(self.groups):
            first = (group - phase) % self.groups
            part = self._waiting[first : self._filled : self.groups]
            self._counts[group] += len(part)
            self._totals[group] += part.sum(axis=0)
            add_gram(part, [(1, self._products[group])])
        self._filled = 0

    def _centred(self) -> tuple[Array, Array]:
        """Return the centre, and the waiting rows about it."""
        if self._centre is not None:
            if self._waiting is None:
                return self._centre, np.zeros((0, self.dim))
            return self._centre, self._waiting[: self._filled]
        assert self._waiting is not None
        rows = self._waiting[: self._filled]
        centre = rows.mean(axis=0)
        return centre, rows - centre

    def _require(self, rows: int) -> None:
        if self.count < rows:
            raise ObjectiveError(
                "moments",
                expected=f"at least {rows} rows",
                found=f"{self.count}",
                hint="add the features of more images",
            )


def in_blocks(rows: Rows, *, dim: int) -> Iterator[Array]:
    """Yield the rows again in blocks of `BLOCK`, whatever the pieces they come in.

    Arguments:
        rows: Pieces [n, d].
        dim: Features d.

    Returns:
        float64 [`BLOCK`, d] each, the last one shorter; the array is used again for the next.
    """
    block = np.empty((BLOCK, dim))
    filled = 0
    for piece in rows():
        while len(piece):
            taken = piece[: BLOCK - filled]
            block[filled : filled + len(taken)] = taken
            filled += len(taken)
            piece = piece[len(taken) :]
            if filled == BLOCK:
                yield block
                filled = 0
    if filled:
        yield block[:filled]


def _not_a_state(found: str) -> ObjectiveError:
    return ObjectiveError(
        "moments to go on with",
        expected=f"the arrays of `Moments.to_arrays` with blocks of {BLOCK} rows",
        found=found,
        hint="begin again from the first image",
    )
