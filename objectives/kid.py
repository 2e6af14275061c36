"""The kernel distance (KID): how far the features of N images are from real ones, without bias.

    KID = mean k(x_i, x_j), i != j  +  mean k(y_i, y_j), i != j  -  2 mean k(x_i, y_j)
    k(x, y) = (x'y / d + 1)^3

(Binkowski et al. 2018, arXiv 1801.01401, section 4; the unbiased estimator is Gretton et al.
2012, JMLR 13, lemma 6), over all N generated images x and all M real images y at once instead of
over random subsets. Being unbiased at every N, it needs no correction, and it may be negative.

The real images are taken as fixed, for they are the same for every schedule: a standard error
speaks of other seeds, not of other real images. An image's influence is the derivative of KID
when that image gains weight (Hampel 1974),

    psi_i = 2 (a_i - mean a) - 2 (r_i - mean r),

with a_i its mean kernel to the other generated images and r_i to the real ones; the standard error
is std(psi) / sqrt(N), nearly that of the jackknife. It is never too small on average (Efron and
Stein 1981), but too large by up to sqrt(2) where images and reference come from one distribution
and psi is nothing but noise (`bench/kernel_coverage.py`).

All kernels are computed in float64, in blocks of `BLOCK` rows, from rows that stay as they are
stored: no N x M matrix and no float64 copy of the features ever exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.paired import Estimate

__all__ = [
    "BLOCK",
    "KernelReference",
    "check_rows",
    "difference_of",
    "estimate_of",
    "kid",
    "kid_difference",
    "kid_influence",
    "row_blocks",
]

Array = NDArray[np.float64]
Rows = NDArray[np.floating[Any]]
Influence = tuple[float, Array]
"""A value and its per-image influence, float64 [N] of mean 0."""

BLOCK = 1024
"""Rows of a block. Two blocks at d = 2048 are 32 MiB in float64 and their products 8 MiB; a
matrix product of that size runs at full speed, and larger ones only cost memory."""


class KernelReference:
    """Real features, and the part of KID that rests on them alone.

    Keep one for all evaluations: its part costs M^2 / 2 kernels and is computed once, when first
    asked for.

    Arguments:
        features: [M, d], M >= 2, float32 or float64; kept, not copied.

    Raises:
        ObjectiveError: When they are not [M, d] or not finite.
    """

    def __init__(self, features: ArrayLike) -> None:
        self.rows = check_rows(features, where="real features", least=2)

    @property
    def dim(self) -> int:
        """Features d."""
        return int(self.rows.shape[1])

    @cached_property
    def similarity(self) -> float:
        """The mean kernel of two different real images."""
        return float(_similarities(self.rows).mean())


def kid(features: ArrayLike, real: ArrayLike | KernelReference) -> Estimate:
    """Return KID with its standard error.

    Arguments:
        features: [N, d], N >= 2.
        real: [M, d], M >= 2, or what is kept of them.

    Raises:
        ObjectiveError: When the features are too few, of unequal dimension, or not finite.
    """
    return estimate_of(kid_influence(features, real))


def kid_difference(
    features: ArrayLike, baseline_features: ArrayLike, real: ArrayLike | KernelReference
) -> Estimate:
    """Return KID(features) - KID(baseline) on the same seeds; negative is better.

    What rests on the real images alone cancels and is not computed.

    Arguments:
        features: [N, d]; row i was made from the same seed as row i of `baseline_features`.
        baseline_features: [N, d], N >= 2.
        real: [M, d], M >= 2, or what is kept of them.

    Raises:
        ObjectiveError: When the two differ in number, or the features are too few, of unequal
            dimension, or not finite.
    """
    reference = _reference_of(real)
    return difference_of(
        kid_influence(features, reference, absolute=False),
        kid_influence(baseline_features, reference, absolute=False),
    )


def kid_influence(
    features: ArrayLike, real: ArrayLike | KernelReference, *, absolute: bool = True
) -> Influence:
    """Return KID and how much each image moves it.

    Computed once an evaluation and kept, it gives any estimate (`estimate_of`) and any paired
    difference (`difference_of`).

    Arguments:
        features: [N, d], N >= 2.
        real: [M, d], M >= 2, or what is kept of them.
        absolute: False leaves out the mean kernel among the real images, which is the same for
            all schedules: then only differences of two values mean something.

    Returns:
        The value, and float64 [N] of mean 0.

    Raises:
        ObjectiveError: When the features are too few, of unequal dimension, or not finite.
    """
    reference = _reference_of(real)
    rows = check_rows(features, where="features", least=2, dim=reference.dim)
    among = _similarities(rows)
    across = _cross_similarities(rows, reference.rows)
    value = float(among.mean()) - 2 * float(across.mean())
    if absolute:
        value += reference.similarity
    psi = 2 * (among - across)
    return value, psi - psi.mean()


def estimate_of(influence: Influence) -> Estimate:
    """Return the estimate that a value and its per-image influence make, N >= 2."""
    value, psi = influence
    return Estimate(value, _standard_error(psi), len(psi))


def difference_of(influence: Influence, baseline: Influence) -> Estimate:
    """Return the paired difference of two evaluations on the same seeds; negative is better.

    Arguments:
        influence: Of the schedule.
        baseline: Of the baseline: same seeds, same real images, same `absolute`.

    Raises:
        ObjectiveError: When the two differ in number.
    """
    (value, psi), (base, base_psi) = influence, baseline
    if len(psi) != len(base_psi):
        raise ObjectiveError(
            "paired features",
            expected=f"{len(base_psi)} rows, one for each image of the baseline",
            found=f"{len(psi)} rows",
            hint="compare evaluations over the same seeds",
        )
    return Estimate(value - base, _standard_error(psi - base_psi), len(psi))


def check_rows(features: ArrayLike, *, where: str, least: int, dim: int | None = None) -> Rows:
    """Return features as an array [N, d] of the floating type they are stored in.

    Arguments:
        features: [N, d] of numbers; whole numbers become float64.
        where: What to call them in an error.
        least: The smallest N.
        dim: The features d that are asked for; None takes any d >= 1.

    Raises:
        ObjectiveError: When they are not [N, d] of the dimension, fewer than `least`, or not
            finite.
    """
    rows = np.asarray(features)
    if rows.dtype.kind in "biu":
        rows = rows.astype(np.float64)
    shape = "d" if dim is None else str(dim)
    if rows.dtype.kind != "f" or rows.ndim != 2 or rows.shape[1] != (dim or rows.shape[1] or 1):
        raise ObjectiveError(
            where,
            expected=f"real numbers [N, {shape}]",
            found=f"{rows.dtype} {list(rows.shape)}",
            hint="extract generated and real features with the same extractor",
        )
    if len(rows) < least:
        raise ObjectiveError(
            where,
            expected=f"[N, {shape}] with N >= {least}",
            found=str(list(rows.shape)),
            hint="give more images",
        )
    bad = sum(
        int((~np.isfinite(rows[start : start + BLOCK]).all(axis=1)).sum())
        for start in range(0, len(rows), BLOCK)
    )
    if bad:
        raise ObjectiveError(
            where,
            expected="finite numbers",
            found=f"NaN or infinity in {bad} of {len(rows)} rows",
            hint="images that are not finite have no score: leave their schedule out",
        )
    return rows


def row_blocks(rows: Rows, *, start: int = 0) -> Iterator[tuple[slice, Array]]:
    """Yield the rows from `start` on in order, `BLOCK` at a time: where they are, in float64."""
    for first in range(start, len(rows), BLOCK):
        place = slice(first, min(first + BLOCK, len(rows)))
        yield place, rows[place].astype(np.float64)


def _kernels(first: Array, second: Array) -> Array:
    base: Array = first @ second.T
    base /= first.shape[1]
    base += 1
    kernels = base * base
    kernels *= base
    return kernels


def _similarities(rows: Rows) -> Array:
    """Return each row's mean kernel to the other rows; blocks below the diagonal are mirrored."""
    sums = np.zeros(len(rows))
    for place, block in row_blocks(rows):
        for other, second in row_blocks(rows, start=place.start):
            kernels = _kernels(block, second)
            if other == place:
                np.fill_diagonal(kernels, 0)
            else:
                sums[other] += kernels.sum(axis=0)
            sums[place] += kernels.sum(axis=1)
    return sums / (len(rows) - 1)


def _cross_similarities(rows: Rows, real: Rows) -> Array:
    """Return each row's mean kernel to the real rows."""
    sums = np.zeros(len(rows))
    for place, block in row_blocks(rows):
        for _, second in row_blocks(real):
            sums[place] += _kernels(block, second).sum(axis=1)
    return sums / len(real)


def _reference_of(real: ArrayLike | KernelReference) -> KernelReference:
    return real if isinstance(real, KernelReference) else KernelReference(real)


def _standard_error(psi: Array) -> float:
    return float(psi.std(ddof=1)) / math.sqrt(len(psi))
