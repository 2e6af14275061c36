"""Scores with standard errors: raw, corrected for the bias in N, and paired differences.

The expected distance of N images is FD + C/N + D/N^2 + ..., and C grows with the spread of the
images, so at small N raw differences favour whatever spreads less (which scales below 1 do).
The correction extrapolates to 1/N = 0 from subsets of the sample itself:

    HALVES    2 FD_N - mean(FD of the two halves by seed parity)
    QUARTERS  8 FD_N - 9 mean(FD of the four three-quarters) + 2 mean(FD of the six halves)

HALVES is Richardson's first step; it cancels C/N and leaves about -2 D/N^2. QUARTERS is the
second-order generalised jackknife (Schucany, Gray and Owen 1971): it cancels D/N^2 too. For
Gaussian features the bias that HALVES leaves grows, in standard errors, with d: 0.4 at N = 4d
for d = 64, where QUARTERS leaves less than 0.1 (`bench/coverage.py`). QUARTERS is therefore the
default; averaged over all subsets it is also the less noisy of the two.

The standard error comes from the derivative of the corrected statistic itself. A subset of the
images gives each of them an influence value psi_s(i), and the same weights that extrapolate the
distances extrapolate these: 8 psi_N(i) - 9 mean psi_s(i) + 2 mean psi_s(i), the means over the
subsets that hold image i. That also undoes most of the shrinkage that psi suffers when the map T
is fitted to the same few images. On common seeds, the difference of two schedules has the
per-image values' difference, so what both share cancels. Intervals are normal ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.frechet import (
    Expansion,
    check_features,
    expand,
    frechet_distance,
    influence,
)
from skiptune.objectives.names import metric_name
from skiptune.objectives.reference import Reference

__all__ = [
    "HALVES",
    "QUARTERS",
    "Correction",
    "Estimate",
    "Share",
    "corrected",
    "corrected_influence",
    "metric_name",
    "paired_difference",
    "raw",
]

Array = NDArray[np.float64]

_GROUPS = 4
# A half must have a covariance.
_LEAST_IMAGES = 2 * _GROUPS


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error.

    Arguments:
        value: The estimate.
        standard_error: One standard deviation of its sampling error.
        images: Images N it rests on.
    """

    value: float
    standard_error: float
    images: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided normal confidence interval at `level` in (0, 1)."""
        half = NormalDist().inv_cdf((1 + level) / 2) * self.standard_error
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Share:
    """Subsets of one size: the weight of their mean, and the groups (row % 4) of each."""

    weight: float
    subsets: tuple[tuple[int, ...], ...]


Correction = tuple[Share, ...]
"""Weights over subsets that sum to 1: an extrapolation to infinitely many images."""

_ALL = tuple(range(_GROUPS))

HALVES: Correction = (
    Share(2, (_ALL,)),
    Share(-1, ((0, 2), (1, 3))),
)
"""First order: the full sample and its halves by parity."""

QUARTERS: Correction = (
    Share(8, (_ALL,)),
    Share(-9, tuple(combinations(_ALL, 3))),
    Share(2, tuple(combinations(_ALL, 2))),
)
"""Second order: Lagrange weights at 1/N = 0 for sample sizes N, 3N/4 and N/2."""


def raw(features: ArrayLike, reference: Reference) -> Estimate:
    """Return the plain distance; its interval is one for E[FD_N], not for the limit.

    Arguments:
        features: [N, d] of the reference's extractor, N >= 2.
        reference: Statistics of real features.

    Raises:
        ObjectiveError: When the features do not fit the reference or are not finite.
    """
    psi = influence(features, reference)
    return Estimate(frechet_distance(features, reference), _standard_error(psi), len(psi))


def corrected(
    features: ArrayLike, reference: Reference, *, correction: Correction = QUARTERS
) -> Estimate:
    """Return the distance corrected for its bias in N: an estimate of FD itself.

    Valid from N = 4d on, better from 8d; it may be negative where FD is near 0.

    Arguments:
        features: [N, d] in the order of their seeds (groups are row % 4), N >= 8.
        reference: Statistics of real features.
        correction: `QUARTERS` or `HALVES`.

    Raises:
        ObjectiveError: When the features do not fit the reference or are not finite.
    """
    value, psi = corrected_influence(features, reference, correction=correction)
    return Estimate(value, _standard_error(psi), len(psi))


def paired_difference(
    features: ArrayLike,
    baseline_features: ArrayLike,
    reference: Reference,
    *,
    correction: Correction = QUARTERS,
) -> Estimate:
    """Return corrected(features) - corrected(baseline) on the same seeds; negative is better.

    Arguments:
        features: [N, d]; row i was made from the same seed as row i of `baseline_features`.
        baseline_features: [N, d].
        reference: Statistics of real features.
        correction: `QUARTERS` or `HALVES`.

    Raises:
        ObjectiveError: When the two differ in number, do not fit the reference, or are not
            finite.
    """
    value, psi = corrected_influence(features, reference, correction=correction)
    base, base_psi = corrected_influence(baseline_features, reference, correction=correction)
    if len(psi) != len(base_psi):
        raise ObjectiveError(
            "paired features",
            expected=f"{len(base_psi)} rows, one for each image of the baseline",
            found=f"{len(psi)} rows",
            hint="compare evaluations over the same seeds",
        )
    return Estimate(value - base, _standard_error(psi - base_psi), len(psi))


def corrected_influence(
    features: ArrayLike, reference: Reference, *, correction: Correction = QUARTERS
) -> tuple[float, Array]:
    """Return the corrected distance and its derivative with respect to each image's weight.

    Arguments:
        features: [N, d] in the order of their seeds, N >= 8.
        reference: Statistics of real features.
        correction: `QUARTERS` or `HALVES`.

    Returns:
        The value, and float64 [N] per-image values; the value's standard error is their
        standard deviation over sqrt(N). Stored, they make any two evaluations comparable.
    """
    rows = check_features(features, reference, least=_LEAST_IMAGES)
    # All moments are sums of the four groups' moments, taken about one common centre so that
    # nothing cancels.
    centre = rows.mean(axis=0)
    groups = [rows[group::_GROUPS] - centre for group in range(_GROUPS)]
    counts = [len(group) for group in groups]
    sums = [group.sum(axis=0) for group in groups]
    products = [group.T @ group for group in groups]

    value = 0.0
    dim = reference.dim
    constant = np.zeros(_GROUPS)
    linear = np.zeros((_GROUPS, dim))
    quadratic = np.zeros((_GROUPS, dim, dim))
    for share in correction:
        holders = [sum(group in subset for subset in share.subsets) for group in _ALL]
        for subset in share.subsets:
            count = sum(counts[group] for group in subset)
            mean = np.sum([sums[group] for group in subset], axis=0) / count
            second = np.sum([products[group] for group in subset], axis=0)
            scatter = second - count * np.outer(mean, mean)
            slope = expand(centre + mean, scatter / (count - 1), reference)
            value += share.weight / len(share.subsets) * slope.value
            polynomial = _polynomial(slope, mean, scatter / count)
            for group in subset:
                weight = share.weight / holders[group]
                constant[group] += weight * polynomial[0]
                linear[group] += weight * polynomial[1]
                quadratic[group] += weight * polynomial[2]

    psi = np.empty(len(rows))
    for group, part in enumerate(groups):
        bent = np.einsum("nd,nd->n", part @ quadratic[group], part)
        psi[group::_GROUPS] = constant[group] + part @ linear[group] + bent
    return value, psi


def _polynomial(slope: Expansion, mean: Array, spread: Array) -> tuple[float, Array, Array]:
    """Return a subset's influence psi(x) = c + b'x + x'Qx, of mean 0 over the subset.

    `mean` and `spread` (divisor N) are the subset's moments, about the centre x is taken about.
    """
    bent = slope.curvature @ mean
    constant = (
        mean @ bent - mean @ slope.gradient - float(np.einsum("ij,ij", slope.curvature, spread))
    )
    return float(constant), slope.gradient - 2 * bent, slope.curvature


def _standard_error(psi: Sequence[float] | Array) -> float:
    values = np.asarray(psi, dtype=np.float64)
    return float(values.std(ddof=1)) / math.sqrt(len(values))
