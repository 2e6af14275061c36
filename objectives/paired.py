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

Features are an array, or a source of pieces that is read twice: moments first, then the images'
influence. Memory then does not grow with N, and not a bit depends on the pieces. `scored` gives
raw and corrected value and influence from one such pair of passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.extrapolation import (
    GROUPS,
    HALVES,
    PLAIN,
    QUARTERS,
    Correction,
    Extrapolation,
    Share,
    extrapolate,
)
from skiptune.objectives.frechet import (
    LEAST_PER_FEATURE,
    VERDICT_PER_FEATURE,
    caution,
    check_shape,
    frechet_distance,
    influence,
)
from skiptune.objectives.moments import BLOCK, Moments, Part, Rows, in_blocks
from skiptune.objectives.names import metric_name
from skiptune.objectives.reference import Reference

__all__ = [
    "HALVES",
    "LEAST_PER_FEATURE",
    "QUARTERS",
    "VERDICT_PER_FEATURE",
    "Correction",
    "Estimate",
    "Features",
    "Rows",
    "Scored",
    "Share",
    "caution",
    "corrected",
    "corrected_influence",
    "difference_of",
    "metric_name",
    "paired_difference",
    "raw",
    "scored",
]

Array = NDArray[np.float64]

Features = ArrayLike | Rows
"""Rows [N, d] in the order of their seeds: an array, or a function that yields its pieces."""

# A half must have a covariance.
_LEAST_IMAGES = 2 * GROUPS


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


@dataclass(frozen=True, eq=False)
class Scored:
    """All that is to be known of one sample; kept, it makes comparisons without its features.

    Arguments:
        raw: The plain distance.
        corrected: The distance corrected for its bias in N.
        influence: float64 [N], mean 0: derivative of the corrected distance with respect to
            each image's weight.
    """

    raw: Estimate
    corrected: Estimate
    influence: Array


def scored(
    features: Features,
    reference: Reference,
    *,
    correction: Correction = QUARTERS,
    least_per_feature: float = LEAST_PER_FEATURE,
) -> Scored:
    """Return `raw`, `corrected` and `corrected_influence` at the cost of the last.

    Arguments:
        features: [N, d] in the order of their seeds (groups are row % 4), N >= 8.
        reference: Statistics of real features.
        correction: `QUARTERS` or `HALVES`.
        least_per_feature: Images per feature below which nothing is corrected; lower ones are
            for studies of the correction itself.

    Raises:
        ObjectiveError: When the features do not fit the reference, are not finite, or are too
            few to be corrected.
    """
    plain, found = _measured(
        features, reference, (PLAIN, correction), least_per_feature=least_per_feature
    )
    if len(found.influence) <= reference.dim:
        plain = _of_few(features, reference)
    return Scored(plain.estimate, found.estimate, found.influence)


def difference_of(ours: Scored, baseline: Scored) -> Estimate:
    """Return the paired difference of two scores on the same seeds; negative is better.

    Arguments:
        ours: From `scored`.
        baseline: From `scored`, by the same reference and correction.

    Raises:
        ObjectiveError: When the two differ in number.
    """
    return _difference(
        _Found(ours.corrected.value, ours.influence),
        _Found(baseline.corrected.value, baseline.influence),
    )


def raw(features: Features, reference: Reference) -> Estimate:
    """Return the plain distance; its interval is one for E[FD_N], not for the limit.

    Arguments:
        features: [N, d] of the reference's extractor, N >= 2.
        reference: Statistics of real features.

    Raises:
        ObjectiveError: When the features do not fit the reference or are not finite.
    """
    centre, parts = _first_pass(features, reference, least=2)
    if _count(parts) <= reference.dim:
        return _of_few(features, reference).estimate
    return _second_pass(features, centre, extrapolate(parts, centre, reference, (PLAIN,)))[
        0
    ].estimate


def corrected(
    features: Features,
    reference: Reference,
    *,
    correction: Correction = QUARTERS,
    least_per_feature: float = LEAST_PER_FEATURE,
) -> Estimate:
    """Return the distance corrected for its bias in N: an estimate of FD itself.

    It may be negative where FD is near 0: take neither logarithms nor ratios of it. `caution`
    says what a count is good for.

    Arguments:
        features: [N, d] in the order of their seeds (groups are row % 4), N >= 8.
        reference: Statistics of real features.
        correction: `QUARTERS` or `HALVES`.
        least_per_feature: As in `scored`.

    Raises:
        ObjectiveError: When the features do not fit the reference, are not finite, or are too
            few to be corrected.
    """
    (found,) = _measured(features, reference, (correction,), least_per_feature=least_per_feature)
    return found.estimate


def paired_difference(
    features: Features,
    baseline_features: Features,
    reference: Reference,
    *,
    correction: Correction = QUARTERS,
    least_per_feature: float = LEAST_PER_FEATURE,
) -> Estimate:
    """Return corrected(features) - corrected(baseline) on the same seeds; negative is better.

    Arguments:
        features: [N, d]; row i was made from the same seed as row i of `baseline_features`.
        baseline_features: [N, d].
        reference: Statistics of real features.
        correction: `QUARTERS` or `HALVES`.
        least_per_feature: As in `scored`.

    Raises:
        ObjectiveError: When the two differ in number, do not fit the reference, are not finite,
            or are too few to be corrected.
    """
    ours, baseline = (
        _measured(rows, reference, (correction,), least_per_feature=least_per_feature)[0]
        for rows in (features, baseline_features)
    )
    return _difference(ours, baseline)


def corrected_influence(
    features: Features,
    reference: Reference,
    *,
    correction: Correction = QUARTERS,
    least_per_feature: float = LEAST_PER_FEATURE,
) -> tuple[float, Array]:
    """Return the corrected distance and its derivative with respect to each image's weight.

    Arguments:
        features: [N, d] in the order of their seeds, N >= 8.
        reference: Statistics of real features.
        correction: `QUARTERS` or `HALVES`.
        least_per_feature: As in `scored`.

    Returns:
        The value, and float64 [N] per-image values; the value's standard error is their
        standard deviation over sqrt(N). Stored, they make any two evaluations comparable.

    Raises:
        ObjectiveError: As `corrected`.
    """
    (found,) = _measured(features, reference, (correction,), least_per_feature=least_per_feature)
    return found.value, found.influence


@dataclass(frozen=True, eq=False)
class _Found:
    value: float
    influence: Array

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, _standard_error(self.influence), len(self.influence))


def _measured(
    features: Features,
    reference: Reference,
    corrections: Sequence[Correction],
    *,
    least_per_feature: float,
) -> list[_Found]:
    centre, parts = _first_pass(features, reference, least=_LEAST_IMAGES)
    if _count(parts) < least_per_feature * reference.dim:
        raise ObjectiveError(
            "corrected distance",
            expected=f"at least {math.ceil(least_per_feature * reference.dim)} images "
            f"({least_per_feature:g} per feature of {reference.extractor})",
            found=f"{_count(parts)}",
            hint="score more images, or by KID, or by the distance in a projection to fewer "
            "dimensions",
        )
    found = extrapolate(parts, centre, reference, corrections)
    return _second_pass(features, centre, found)


def _rows(features: Features) -> Rows:
    if callable(features):
        return features
    array = np.asarray(features)
    if array.ndim != 2:
        return lambda: (array,)
    return lambda: (array[first : first + BLOCK] for first in range(0, len(array), BLOCK))


def _first_pass(
    features: Features, reference: Reference, *, least: int
) -> tuple[Array, list[Part]]:
    """Return the centre, and the moments of the groups about it."""
    moments = Moments(reference.dim, groups=GROUPS)
    for piece in _rows(features)():
        check_shape(np.shape(piece), reference, least=0)
        moments.add(piece)
    check_shape((moments.count, reference.dim), reference, least=least)
    return moments.parts()


def _count(parts: Sequence[Part]) -> int:
    return sum(part.count for part in parts)


def _second_pass(
    features: Features, centre: Array, extrapolations: Sequence[Extrapolation]
) -> list[_Found]:
    """Return the values, and the influence of each image."""
    count = extrapolations[0].images
    psi = np.empty((len(extrapolations), count))
    first = 0
    for block in in_blocks(_rows(features), dim=len(centre)):
        if first + len(block) > count:
            raise _changed(count, first + len(block))
        block -= centre
        for group in range(GROUPS):
            rows = np.ascontiguousarray(block[group::GROUPS])
            squares = np.einsum("nd,nd->n", rows, rows)
            for values, one in zip(psi, extrapolations, strict=True):
                values[first + group : first + len(block) : GROUPS] = squares + one.at(rows, group)
        first += len(block)
    if first != count:
        raise _changed(count, first)
    return [_Found(one.value, values) for values, one in zip(psi, extrapolations, strict=True)]


def _of_few(features: Features, reference: Reference) -> _Found:
    """Return the plain distance of no more images than features, through their Gram matrix."""
    rows = np.concatenate([np.asarray(piece) for piece in _rows(features)()])
    return _Found(frechet_distance(rows, reference), influence(rows, reference))


def _difference(ours: _Found, baseline: _Found) -> Estimate:
    if len(ours.influence) != len(baseline.influence):
        raise ObjectiveError(
            "paired features",
            expected=f"{len(baseline.influence)} rows, one for each image of the baseline",
            found=f"{len(ours.influence)} rows",
            hint="compare evaluations over the same seeds",
        )
    return _Found(ours.value - baseline.value, ours.influence - baseline.influence).estimate


def _changed(expected: int, found: int) -> ObjectiveError:
    return ObjectiveError(
        "features",
        expected=f"{expected} rows, as read before",
        found=f"{found} or more" if found > expected else f"{found}",
        hint="give a function that yields the same pieces at every call",
    )


def _standard_error(psi: Array) -> float:
    return float(psi.std(ddof=1)) / math.sqrt(len(psi))
