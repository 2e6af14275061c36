"""Extrapolation to infinitely many images: weights over subsets of a sample, and what they give.

A correction for the bias in N is a weighted sum of distances of subsets made of four groups of
images (row % 4); see `paired` for what the weights mean. The same weights extrapolate the
influence of each image, a quadratic polynomial of its features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from skiptune.objectives.frechet import spectrum
from skiptune.objectives.moments import Part
from skiptune.objectives.reference import Reference
from skiptune.objectives.symmetric import (
    add_gram,
    congruence,
    double_lower,
    mirror,
    quadratic_form,
)

__all__ = [
    "GROUPS",
    "HALVES",
    "PLAIN",
    "QUARTERS",
    "Correction",
    "Extrapolation",
    "Share",
    "extrapolate",
]

Array = NDArray[np.float64]

GROUPS = 4
"""Row i of a sample is in group i % 4."""


@dataclass(frozen=True)
class Share:
    """Subsets of one size: the weight of their mean, and the groups (row % 4) of each."""

    weight: float
    subsets: tuple[tuple[int, ...], ...]


Correction = tuple[Share, ...]
"""Weights over subsets that sum to 1: an extrapolation to infinitely many images."""

ALL = tuple(range(GROUPS))

HALVES: Correction = (
    Share(2, (ALL,)),
    Share(-1, ((0, 2), (1, 3))),
)
"""First order: the full sample and its halves by parity."""

QUARTERS: Correction = (
    Share(8, (ALL,)),
    Share(-9, tuple(combinations(ALL, 3))),
    Share(2, tuple(combinations(ALL, 2))),
)
"""Second order: Lagrange weights at 1/N = 0 for sample sizes N, 3N/4 and N/2."""

PLAIN: Correction = (Share(1, (ALL,)),)
"""None: the distance of the whole sample."""


class Extrapolation:
    """A corrected distance, and the influence c + b'x + x'x - x'Tx of the images of each group.

    x is taken about the centre of all moments. A correction that knows no groups has one
    polynomial for all images.

    Arguments:
        correction: Its weights.
        dim: Features d.
        images: Images N of the whole sample.
    """

    def __init__(self, correction: Correction, dim: int, images: int) -> None:
        whole = all(subset == ALL for share in correction for subset in share.subsets)
        groups = 1 if whole else GROUPS
        self.correction = correction
        self.value = 0.0
        self.images = images
        self.constant = np.zeros(groups)
        self.linear = np.zeros((groups, dim))
        # First sums of M^(-1/2) with M = A S A, at the end T = A M^(-1/2) A.
        self.curves = [np.zeros((dim, dim)) for _ in range(groups)]

    def weights(self, subset: tuple[int, ...]) -> tuple[float, list[tuple[int, float]]]:
        """Return a subset's weight in the value, and in the polynomial of each of its groups."""
        value = 0.0
        groups = np.zeros(len(self.curves))
        for share in self.correction:
            times = share.subsets.count(subset)
            value += times * share.weight / len(share.subsets)
            for group in range(len(groups)):
                if group in subset:
                    holders = sum(group in other for other in share.subsets)
                    groups[group] += times * share.weight / holders
        return value, [(group, float(weight)) for group, weight in enumerate(groups) if weight]

    def at(self, rows: Array, group: int) -> Array:
        """Return c + b'x - x'Tx for rows [n, d] of a group."""
        place = group % len(self.curves)
        values: Array = self.constant[place] + rows @ self.linear[place]
        values -= quadratic_form(rows, self.curves[place])
        return values


def extrapolate(
    parts: list[Part], centre: Array, reference: Reference, corrections: Sequence[Correction]
) -> list[Extrapolation]:
    """Return the corrected distances and their polynomials, one for each correction.

    S is linear in the groups' products and so is A S A: four products are mapped by A, not one
    for each subset, and T is assembled before it is mapped back.

    Arguments:
        parts: Moments of the groups; the list is emptied, because each is large.
        centre: float64 [d] that they are taken about.
        reference: Statistics of real features.
        corrections: At least one.
    """
    dim, root = reference.dim, reference.root
    counts = [part.count for part in parts]
    totals = [part.total for part in parts]
    traces = [float(np.trace(part.product)) for part in parts]
    mapped = []
    while parts:
        mapped.append(congruence(root, parts.pop(0).product))
    found = [Extrapolation(correction, dim, sum(counts)) for correction in corrections]
    subsets = [
        subset for correction in corrections for share in correction for subset in share.subsets
    ]
    for subset in dict.fromkeys(subsets):
        count = sum(counts[group] for group in subset)
        mean = np.sum([totals[group] for group in subset], axis=0) / count
        turned = root @ mean
        product = mapped[subset[0]].copy()
        for group in subset[1:]:
            product += mapped[group]
        product -= np.outer(count * turned, turned)
        product /= count - 1
        slope = spectrum(product)
        shift = centre + mean - reference.mean
        spread = sum(traces[group] for group in subset) - count * float(mean @ mean)
        value = float(shift @ shift) + spread / (count - 1) + reference.trace - 2 * slope.roots
        # psi(x) = 2 shift'(x - mean) + (x - mean)'(I - T)(x - mean), less its mean over the
        # subset; the trace of T times the covariance is that of the root.
        moved = root @ (slope.half @ (slope.half.T @ turned))
        linear = 2 * (shift - mean + moved)
        constant = (
            float(mean @ (mean - moved) - 2 * (mean @ shift))
            - (spread - (count - 1) * slope.spanned) / count
        )
        into = []
        for one in found:
            weight, groups = one.weights(subset)
            one.value += weight * value
            for group, share in groups:
                one.constant[group] += share * constant
                one.linear[group] += share * linear
                into.append((share, one.curves[group]))
        add_gram(slope.half.T, into)
    for one in found:
        for group, curve in enumerate(one.curves):
            mirror(curve)
            one.curves[group] = congruence(root, curve)
            double_lower(one.curves[group])
    return found
