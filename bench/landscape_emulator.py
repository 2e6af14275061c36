"""Features between the measured schedules: a smooth function of the log scales, image by image.

With common seeds the features of one image change smoothly with the scales. They are predicted by
kernel regression of their change against the baseline,

    F(z) = F(0) + sum_k w_k(z) (F_k - F(0)),     w(z) = k(z, Z) (k(Z, Z) + ridge 1)^-1,

with one set of weights for all images and features, so that a prediction is a weighted sum of
measured arrays. The kernel is that of a Gaussian process which vanishes at the baseline: linear
and quadratic polynomials of the log scales plus a local part,

    k(z, y) = z'y + quadratic (z'y)^2 + local (e^(-|z - y|^2 / 2) - e^(-|z|^2 / 2) e^(-|y|^2 / 2)),

of coordinates divided by a length each (Rasmussen and Williams 2006, Gaussian Processes for
Machine Learning, sections 2.2, 4.2 and 5.4.2, which has the leave-one-out formula).

Weighted sums of images lose a little of the spread that every image has of its own, and a
Frechet distance sees that. `recolour` gives it back: an affine map, the same for all images,
after which mean and covariance are those that the same weights predict from the measured means
and covariances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skiptune.objectives.frechet import frechet_of_moments
from skiptune.objectives.reference import Reference

__all__ = ["Emulator", "Kernel", "Measured", "moments", "population_distance"]

Array = NDArray[np.float64]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Kernel:
    """What the regression takes for smooth.

    Arguments:
        lengths: One per coordinate, in log scale, above 0.
        quadratic: Weight of quadratic terms beside the linear ones, at least 0.
        local: Weight of the local part, at least 0.
        ridge: Added to the diagonal, relative to the kernel's mean diagonal, above 0.
    """

    lengths: tuple[float, ...]
    quadratic: float
    local: float
    ridge: float

    def __call__(self, left: Array, right: Array) -> Array:
        """Return the kernel between rows, float64 [L, R], of points [L, p] and [R, p]."""
        a, b = left / np.array(self.lengths), right / np.array(self.lengths)
        inner = a @ b.T
        square_a, square_b = (a * a).sum(1), (b * b).sum(1)
        apart = square_a[:, None] + square_b - 2 * inner
        local = np.exp(-apart / 2) - np.exp(-square_a / 2)[:, None] * np.exp(-square_b / 2)
        value: Array = inner + self.quadratic * inner**2 + self.local * local
        return value


@dataclass(frozen=True, eq=False)
class Measured:
    """Measured schedules on common seeds.

    Arguments:
        points: float64 [K, p], coordinates: logs of the parameters.
        features: float32 [K, n, d].
        baseline: float32 [n, d].
    """

    points: Array
    features: Features
    baseline: Features

    @cached_property
    def changes(self) -> Features:
        """Features less those of the baseline, float32 [K, n d]."""
        return (self.features - self.baseline).reshape(len(self.points), -1)

    @cached_property
    def moments(self) -> tuple[Array, Array]:
        """Means [1 + K, d] and covariances [1 + K, d, d], the baseline's first."""
        found = [moments(rows) for rows in (self.baseline, *self.features)]
        return np.array([mean for mean, _ in found]), np.array([c for _, c in found])


@dataclass(frozen=True, eq=False)
class Emulator:
    """Predicts the features of any schedule.

    Arguments:
        measured: What it is fitted to.
        kernel: Of the regression.
        recolour: Whether mean and covariance are predicted on their own.
    """

    measured: Measured
    kernel: Kernel
    recolour: bool = False

    def features(self, point: Array) -> Features:
        """Return the features float32 [n, d] at a point [p] of log parameters."""
        weights = self.weights(point)
        rows = self._sum(weights)
        if not self.recolour:
            return rows
        mean, wanted = self._predicted_moments(weights)
        now, covariance = moments(rows)
        mapped: Array = (rows - now) @ _transport(covariance, wanted) + mean
        return mapped.astype(np.float32)

    def moments(self, point: Array) -> tuple[Array, Array]:
        """Return mean [d] and covariance [d, d] of the population at a point, in float64.

        Those of `features` up to rounding, but for a predicted covariance that is not positive
        semidefinite: features can only have the part of it that is.
        """
        return self._moments(self.weights(point))

    def weights(self, point: Array) -> Array:
        """Return the weight of each measured schedule, float64 [K]."""
        row = self.kernel(point[None], self.measured.points)[0]
        weights: Array = row @ self._inverse
        return weights

    def left_out(self) -> Iterator[tuple[Array, Array]]:
        """Yield the moments of each measured schedule as the fit to all others predicts them.

        For a linear smoother that is one division, no second fit: with R the inverse of the
        kernel matrix, the left-out prediction is F_k - (R F)_k / R_kk.
        """
        inverse = self._inverse
        for k in range(len(inverse)):
            weights = -inverse[k] / inverse[k, k]
            weights[k] = 0.0
            yield self._moments(weights)

    def _moments(self, weights: Array) -> tuple[Array, Array]:
        return self._predicted_moments(weights) if self.recolour else moments(self._sum(weights))

    def _sum(self, weights: Array) -> Features:
        # One pass over the measured arrays, in their own precision.
        change = weights.astype(np.float32) @ self.measured.changes
        rows: Features = self.measured.baseline + change.reshape(self.measured.baseline.shape)
        return rows

    def _predicted_moments(self, weights: Array) -> tuple[Array, Array]:
        means, covariances = self.measured.moments
        mean = means[0] + weights @ (means[1:] - means[0])
        change = np.tensordot(weights, covariances[1:] - covariances[0], axes=1)
        return mean, covariances[0] + change

    @cached_property
    def _inverse(self) -> Array:
        matrix = self.kernel(self.measured.points, self.measured.points)
        ridge = self.kernel.ridge * float(np.trace(matrix)) / len(matrix)
        return np.asarray(np.linalg.inv(matrix + ridge * np.eye(len(matrix))), dtype=np.float64)


def moments(rows: Features) -> tuple[Array, Array]:
    """Return mean [d] and covariance [d, d] of a population, divisor n, in float64."""
    exact = rows.astype(np.float64)
    mean = exact.mean(axis=0)
    centred = exact - mean
    return mean, centred.T @ centred / len(rows)


def population_distance(rows: Features, reference: Reference) -> float:
    """Return the distance of a population: of infinitely many images drawn from `rows`."""
    return frechet_of_moments(*moments(rows), reference)


def _transport(covariance: Array, wanted: Array) -> Array:
    """Return the symmetric map that turns one covariance into another, as far as both have rank.

    The optimal map between Gaussians, A = S^(-1/2) (S^(1/2) W S^(1/2))^(1/2) S^(-1/2): among all
    maps it changes the images least.
    """
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-10 * values[-1]
    basis, roots = vectors[:, kept], np.sqrt(values[kept])
    middle = (basis * roots).T @ wanted @ (basis * roots)
    inner_values, inner = np.linalg.eigh((middle + middle.T) / 2)
    square = (inner * np.sqrt(np.clip(inner_values, 0, None))) @ inner.T
    half = basis / roots
    mapped: Array = half @ square @ half.T
    return mapped
