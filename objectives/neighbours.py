"""Nearest-neighbour metrics: precision, recall, density and coverage, with error bars.

With B_k(z) the closed ball around z that reaches its k-th nearest other image of the same set:

    precision  share of generated x within B_3(y) of some real y
    recall     share of real y within B_3(x) of some generated x
    density    mean over generated x of (1 / 5) #{real y: x within B_5(y)}
    coverage   share of real y whose B_5(y) holds some generated x

(precision and recall: Kynkaanniemi et al. 2019, arXiv 1904.06991, equations 1 and 2, k = 3;
density and coverage: Naeem et al. 2020, arXiv 2002.09797, section 3, k = 5.) Balls are closed,
as in torch-fidelity and in equation 1; Naeem's own code uses open ones, which differs only where
distances tie exactly. Density may exceed 1. In all four, larger is better.

Error bars take the real images as fixed for precision and density, which are means over the
generated images: each image has its own value. Recall and coverage have none, for whether a real
image is reached depends on all generated images together. They are measured on disjoint blocks:
the seeds in consecutive blocks, and the real images dealt out to them in turn, so that each block
is the whole comparison in small, with the same ratio of generated to real. Against all real
images instead, blocks would have another coverage altogether, and the real images that they share
would make recall's standard error half of what it is (`bench/kernel_coverage.py`); dealt out,
the real images count as drawn anew, which is on the safe side.

Distances are computed in float64, in blocks of `skiptune.objectives.kid.BLOCK` rows, from rows
that stay as they are stored: no N x M matrix and no float64 copy of the features ever exists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.kid import check_rows, row_blocks
from skiptune.objectives.paired import Estimate
from skiptune.objectives.units import Units, standard_error

__all__ = [
    "LEAST_BLOCKS",
    "NEIGHBOURS",
    "Measured",
    "Neighbourhood",
    "difference",
    "neighbour_metric",
    "neighbour_metrics",
    "seed_blocks",
]

Array = NDArray[np.float64]
Rows = NDArray[np.floating[Any]]

NEIGHBOURS = {"precision": 3, "recall": 3, "density": 5, "coverage": 5}
"""The metrics, and the k of each, as its paper chose it."""

# What depends on all generated images together has no per-image values.
_BY_BLOCKS = frozenset({"recall", "coverage"})

LEAST_BLOCKS = 4
"""Blocks that error bars need: fewer have no standard error (`Measured.estimate`)."""

_BLOCK_IMAGES = 250
# More blocks make normal intervals hardly better, and larger ones are more like the whole.
_MOST_BLOCKS = 20

# |x|^2 + |y|^2 - 2 x'y is off by at most 2 d 2^-53 |y|^2 where x is close to y: 4.5e-13 |y|^2 at
# d = 2048. Within that, a distance counts as equal to the radius, so that ties stay ties.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric of one evaluation, and what its error bars rest on.

    Arguments:
        name: Of the metric; larger is better.
        value: At all images.
        images: Generated images N.
        parts: float64: one value for each image [N] (precision, density), or for each disjoint
            block of seeds [B] (recall, coverage); empty when no blocks were asked for.
        real_images: Real images M.
        units: Which images count together (precision, density); None where each counts by itself.
    """

    name: str
    value: float
    images: int
    parts: Array
    real_images: int
    units: Units | None = None

    def estimate(self) -> Estimate:
        """Return the value with its standard error, which is at least `resolution`.

        Raises:
            ObjectiveError: When it was measured without blocks.
        """
        error = max(self.standard_error_of(self.parts), self.resolution)
        return Estimate(self.value, error, self.images)

    @property
    def resolution(self) -> float:
        """The weight of one of the images that the metric is a mean over.

        Where all parts agree, as at a coverage near 1, it is not known any better than that.
        """
        return 1 / (self.real_images if self.name in _BY_BLOCKS else self.images)

    def standard_error_of(self, parts: Array) -> float:
        """Return the standard error that such parts, or their differences, give.

        Raises:
            ObjectiveError: When it was measured without blocks.
        """
        if self.units is not None:
            return standard_error(parts, self.units)
        count = len(parts)
        error = float(parts.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
        if self.name not in _BY_BLOCKS:
            return error
        if count < LEAST_BLOCKS:
            raise ObjectiveError(
                f"error bars of {self.name}",
                expected=f"at least {LEAST_BLOCKS} blocks of seeds",
                found=f"{count} blocks",
                hint="measure it with `blocks` left out",
            )
        # The mean of few blocks is distributed as Student's t, whose standard deviation is
        # sqrt((B - 1) / (B - 3)): with it, normal intervals of level 0.95 are Student's within
        # 2 % of their width, at 4 blocks 7 % wider.
        return error * math.sqrt((count - 1) / (count - 3))


class Neighbourhood:
    """Real features, and the distances to the nearest of their own.

    Keep one for all evaluations: the distances cost M^2 / 2 products and are computed once, when
    first asked for.

    Arguments:
        features: [M, d], M >= 1, float32 or float64; kept, not copied. What asks for balls of
            k neighbours needs M > k.

    Raises:
        ObjectiveError: When they are not [M, d], too few, or not finite.
    """

    def __init__(self, features: ArrayLike) -> None:
        self.rows = check_rows(features, where="real features", least=1)
        self._dealt: dict[int, tuple[Neighbourhood, ...]] = {}

    @property
    def dim(self) -> int:
        """Features d."""
        return int(self.rows.shape[1])

    @cached_property
    def centre(self) -> Array:
        """The mean, float64 [d]: distances are taken from here, so that nothing cancels."""
        centre: Array = self.rows.mean(axis=0, dtype=np.float64)
        return centre

    @cached_property
    def _nearest(self) -> Array:
        return _nearest(self.rows, self.centre, max(NEIGHBOURS.values()))

    @cached_property
    def _lengths(self) -> Array:
        return _lengths(self.rows, self.centre)

    def radii(self, neighbours: int) -> Array:
        """Return the squared radius of each real image's closed ball, float64 [M].

        Arguments:
            neighbours: k, from 1 to 5: the ball reaches the k-th nearest other image, and
                everything where there are no k others.
        """
        return _closed(self._nearest[:, neighbours - 1], self._lengths)

    def dealt(self, blocks: int) -> tuple[Neighbourhood, ...]:
        """Return the images dealt out in turn: row i to block i % `blocks`; kept as well.

        Rows may be in any order, sorted by class too, but one of such a period.
        """
        if blocks not in self._dealt:
            self._dealt[blocks] = tuple(
                Neighbourhood(self.rows[block::blocks]) for block in range(blocks)
            )
        return self._dealt[blocks]


def neighbour_metric(
    name: str, features: ArrayLike, real: ArrayLike | Neighbourhood, *, blocks: int | None = None
) -> Measured:
    """Return one metric; see `neighbour_metrics`."""
    return neighbour_metrics(features, real, [name], blocks=blocks)[name]


def neighbour_metrics(
    features: ArrayLike,
    real: ArrayLike | Neighbourhood,
    names: Sequence[str] = tuple(NEIGHBOURS),
    *,
    blocks: int | None = None,
) -> dict[str, Measured]:
    """Return several metrics from one pass over the distances.

    Arguments:
        features: [N, d] in the order of their seeds, N >= 2; N >= 4 for recall.
        real: [M, d], or what is kept of them; M >= 4 for precision, M >= 6 for density and
            coverage.
        names: Of `NEIGHBOURS`.
        blocks: Blocks for the error bars of recall and coverage, at least 4; None takes
            `seed_blocks(N)`; 0 leaves these error bars out.

    Returns:
        By name, in the order of `names`.

    Raises:
        ObjectiveError: When a name is unknown, or the features are too few for the metrics or
            their blocks, of unequal dimension, or not finite.
    """
    _check_names(names)
    reference = real if isinstance(real, Neighbourhood) else Neighbourhood(real)
    rows = check_rows(features, where="features", least=2, dim=reference.dim)
    _check_counts(len(rows), len(reference.rows), names, blocks=1, what="")
    by_blocks = [name for name in names if name in _BY_BLOCKS]
    if not by_blocks:
        count = 0
    else:
        count = seed_blocks(len(rows)) if blocks is None else blocks
    if count:
        _check_blocks(count)
        _check_counts(
            len(rows), len(reference.rows), by_blocks, blocks=count, what=f" in {count} blocks"
        )
    found = _compared(rows, reference, names)
    parts = {
        name: np.empty(0) if name in _BY_BLOCKS else found[name].astype(np.float64)
        for name in names
    }
    if count:
        inner = [
            _compared(block, dealt, by_blocks)
            for block, dealt in zip(
                np.array_split(rows, count), reference.dealt(count), strict=True
            )
        ]
        for name in by_blocks:
            parts[name] = np.array([block[name].mean() for block in inner])
    return {
        name: Measured(
            name, float(found[name].mean()), len(rows), parts[name], len(reference.rows)
        )
        for name in names
    }


def difference(measured: Measured, baseline: Measured) -> Estimate:
    """Return baseline - measured on the same seeds, so that negative is better.

    That is the sign of every difference in this project. In these metrics larger is better, so it
    is minus the gain in the value; nowhere else is the sign turned.

    Arguments:
        measured: Of the schedule.
        baseline: Of the baseline: same metric, same seeds, same real images, same blocks.

    Raises:
        ObjectiveError: When the two are not of one metric, one number of images, real images and
            blocks, or were measured without blocks.
    """
    ours, theirs = (
        (one.name, one.images, one.real_images, len(one.parts)) for one in (measured, baseline)
    )
    if ours != theirs:
        raise ObjectiveError(
            "paired metrics",
            expected="{} of {} images against {} real ones in {} parts, as the baseline".format(
                *theirs
            ),
            found="{} of {} images against {} real ones in {} parts".format(*ours),
            hint="compare evaluations over the same seeds and the same real images",
        )
    value, parts = baseline.value - measured.value, baseline.parts - measured.parts
    error = measured.standard_error_of(parts)
    # An evaluation differs from itself by nothing; otherwise neither of the two values is known
    # better than to one image.
    if value or parts.any():
        changed = 2.0
        if measured.name in _BY_BLOCKS:
            # At least so many real images are reached by one and not by the other, and D of those
            # have the error sqrt(D) / M (McNemar 1947). Near 1 blocks are often too alike to say.
            changed = max(changed, abs(value) / measured.resolution)
        error = max(error, math.sqrt(changed) * measured.resolution)
    return Estimate(value, error, measured.images)


def seed_blocks(images: int) -> int:
    """Return into how many consecutive blocks N seeds are split for error bars.

    As many as there are chunks of 250, so that a block is never less than one chunk, but at most
    20: 1000 images have 4 blocks of 250, 5000 have 20, 50000 have 20 of 2500.

    Raises:
        ObjectiveError: When there are too few for 4 blocks.
    """
    blocks = min(images // _BLOCK_IMAGES, _MOST_BLOCKS)
    if blocks < LEAST_BLOCKS:
        raise ObjectiveError(
            "error bars of recall and coverage",
            expected=f"at least {LEAST_BLOCKS * _BLOCK_IMAGES} images: {LEAST_BLOCKS} blocks of "
            f"{_BLOCK_IMAGES}",
            found=f"{images} images",
            hint="give more images, or pass `blocks=0` for the value alone",
        )
    return blocks


def _check_names(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in NEIGHBOURS]
    if unknown or not names:
        raise ObjectiveError(
            "metric",
            expected="one of " + ", ".join(NEIGHBOURS),
            found=", ".join(unknown) or "none",
            hint="take a name from this list",
        )


def _check_blocks(count: int) -> None:
    if count < LEAST_BLOCKS:
        raise ObjectiveError(
            "blocks",
            expected=f"at least {LEAST_BLOCKS}, or 0 for the value alone",
            found=str(count),
            hint="leave `blocks` out to have them chosen",
        )


def _check_counts(images: int, real: int, names: Sequence[str], *, blocks: int, what: str) -> None:
    needs = {
        # Recall's balls are around generated images, the others' around real ones.
        "features": (images, [NEIGHBOURS[name] for name in names if name == "recall"]),
        "real features": (real, [NEIGHBOURS[name] for name in names if name != "recall"]),
    }
    for where, (count, neighbours) in needs.items():
        least = blocks * (max(neighbours, default=0) + 1)
        if count < least:
            raise ObjectiveError(
                where,
                expected=f"at least {least} images for {', '.join(names)}{what}",
                found=f"{count} images",
                hint="give more images",
            )


def _compared(rows: Rows, real: Neighbourhood, names: Sequence[str]) -> dict[str, Array]:
    """Return each metric's values whose mean it is: one for each row, or for each real image."""
    centre = real.centre
    reach = {name: real.radii(NEIGHBOURS[name]) for name in names if name != "recall"}
    if "recall" in names:
        nearest = _nearest(rows, centre, NEIGHBOURS["recall"])[:, -1]
        reach["recall"] = _closed(nearest, _lengths(rows, centre))
    sizes = {name: len(real.rows) if name in _BY_BLOCKS else len(rows) for name in names}
    within = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
    for place, block in row_blocks(rows):
        block -= centre
        for other, second in row_blocks(real.rows):
            squares = _squares(block, second - centre)
            for name in names:
                if name == "recall":
                    hits = squares <= reach[name][place, None]
                else:
                    hits = squares <= reach[name][other]
                if name in _BY_BLOCKS:
                    within[name][other] += np.count_nonzero(hits, axis=0)
                else:
                    within[name][place] += np.count_nonzero(hits, axis=1)
    return {
        name: counts / NEIGHBOURS[name] if name == "density" else (counts > 0).astype(np.float64)
        for name, counts in within.items()
    }


def _nearest(rows: Rows, centre: Array, count: int) -> Array:
    """Return the squared distances to the nearest other rows, ascending, float64 [N, count].

    Infinite where there are no more rows. Blocks below the diagonal are mirrored.
    """
    nearest = np.full((len(rows), count), np.inf)
    for place, block in row_blocks(rows):
        block -= centre
        for other, second in row_blocks(rows, start=place.start):
            squares = _squares(block, second - centre)
            if other == place:
                np.fill_diagonal(squares, np.inf)
            else:
                nearest[other] = _smallest(nearest[other], squares.T)
            nearest[place] = _smallest(nearest[place], squares)
    nearest.sort(axis=1)
    return nearest


def _smallest(nearest: Array, squares: Array) -> Array:
    count = nearest.shape[1]
    smallest: Array = np.partition(np.hstack([nearest, squares]), count - 1, axis=1)[:, :count]
    return smallest


def _squares(first: Array, second: Array) -> Array:
    squares: Array = first @ second.T
    squares *= -2
    squares += np.einsum("nd,nd->n", first, first)[:, None]
    squares += np.einsum("nd,nd->n", second, second)
    return squares


def _lengths(rows: Rows, centre: Array) -> Array:
    lengths = np.empty(len(rows))
    for place, block in row_blocks(rows):
        centred = block - centre
        lengths[place] = np.einsum("nd,nd->n", centred, centred)
    return lengths


def _closed(squares: Array, lengths: Array) -> Array:
    """Return squared radii widened by the rounding of the distances compared with them."""
    return np.maximum(squares, 0) + _ROUNDING * (squares + lengths)
