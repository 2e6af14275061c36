"""Corrected distances and their influence for many small samples: `objectives.paired`, quicker.

At d = 16 the library spends its time on calls, not on numbers. Here all schedules and all subsets
of a correction go through numpy at once. The weights are the library's, and a test holds both to
each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from skiptune.objectives.extrapolation import GROUPS, QUARTERS, Extrapolation
from skiptune.objectives.paired import Estimate
from skiptune.objectives.reference import Reference

__all__ = ["Score", "scores"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Score:
    """A corrected distance.

    Arguments:
        value: The distance.
        influence: float64 [N], of each image, in an order that all scores of N images share; up to
            a constant.
    """

    value: float
    influence: Array

    @property
    def standard_error(self) -> float:
        """Of the value."""
        return _error(self.influence)

    def less(self, other: Score) -> Estimate:
        """Return this less another on the same seeds, with its paired error."""
        apart = self.influence - other.influence
        return Estimate(self.value - other.value, _error(apart), len(apart))


def scores(rows: Array, reference: Reference) -> list[Score]:
    """Return what `objectives.paired.scored` says of the corrected distance of each schedule.

    Arguments:
        rows: float64 [K, N, d]: K schedules in seed order, N a multiple of 4 and at least 4 d.
        reference: Statistics of real features.
    """
    schedules, images, dim = rows.shape
    members, weights, shares = _subsets(dim)
    root = reference.root
    centres = rows.mean(axis=1)
    groups = (rows - centres[:, None]).reshape(schedules, -1, GROUPS, dim).swapaxes(1, 2)
    counts = members.sum(axis=1) * (images // GROUPS)
    # From here on [K, S, ...] for the S subsets of the groups.
    means = members @ groups.sum(axis=2) / counts[:, None]
    products = (groups.swapaxes(2, 3) @ groups).reshape(schedules, GROUPS, dim * dim)
    sums = (members @ products).reshape(schedules, -1, dim, dim)
    sums -= counts[:, None, None] * means[..., :, None] * means[..., None, :]
    covariances = sums / (counts - 1)[:, None, None]
    values, vectors = np.linalg.eigh(root @ covariances @ root)
    roots = np.sqrt(np.maximum(values, np.finfo(float).tiny))
    mapped = root @ vectors
    curves = (mapped / roots[..., None, :]) @ mapped.swapaxes(2, 3)
    shifts = centres[:, None] + means - reference.mean
    spreads = np.trace(covariances, axis1=2, axis2=3)
    distances = (shifts**2).sum(axis=2) + spreads + reference.trace - 2 * roots.sum(axis=2)
    # psi(x) = 2 shift'(x - mean) + (x - mean)'(I - T)(x - mean), less its mean over the subset,
    # as a quadratic polynomial of x for each group of images.
    moved = (curves @ means[..., None])[..., 0]
    linears = shares @ (2 * (shifts - means + moved))
    constants = (means * (means - moved - 2 * shifts)).sum(axis=2)
    constants -= (counts - 1) / counts * (spreads - roots.sum(axis=2))
    curve = (shares @ curves.reshape(schedules, -1, dim * dim)).reshape(-1, GROUPS, dim, dim)
    slopes = groups - groups @ curve + linears[:, :, None]
    influence = (slopes * groups).sum(axis=3) + (constants @ shares.T)[..., None]
    found = influence.reshape(schedules, images)
    return [Score(*both) for both in zip((distances @ weights).tolist(), found, strict=True)]


@lru_cache
def _subsets(dim: int) -> tuple[Array, Array, Array]:
    """Return which groups the subsets hold [S, 4], their weights [S], and those of each group's
    polynomial [4, S]."""
    found = Extrapolation(QUARTERS, dim, GROUPS)
    subsets = [subset for share in QUARTERS for subset in share.subsets]
    members = np.zeros((len(subsets), GROUPS))
    weights = np.zeros(len(subsets))
    shares = np.zeros((GROUPS, len(subsets)))
    for place, subset in enumerate(subsets):
        members[place, list(subset)] = 1
        weights[place], of_groups = found.weights(subset)
        for group, weight in of_groups:
            shares[group, place] = weight
    return members, weights, shares


def _error(influence: Array) -> float:
    return float(influence.std(ddof=1)) / math.sqrt(len(influence))
