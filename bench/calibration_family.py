"""Schedules whose distance is known exactly, with other images at every one of them.

Images are Gaussian in d features, their noise is common to all schedules (common seeds) and made
of four independent fields z, e_1, e_2, e_3 per image. At parameters a = (a_1, a_2) in [-1, 1]^2

    x(a) = shift(a) u(a) + V^(1/2) (1 + spread q(a)) (share z + (1 - share^2)^(1/2) e(a)),

with the reference N(0, V), V diagonal, a unit vector u(a) and a unit mixture e(a) of the three
fields, both turning with a. Since 1 + spread q(a) is diagonal too, the distance is

    FD(a) = shift(a)^2 + spread^2 sum_k v_k q_k(a)^2,

and q turns on the sphere sum v q^2 = sum v, so its term is the same at every a. The shift makes
FD(a) what is wanted: equal everywhere (a null), or a bowl whose lowest place lies some gain below
the baseline a = 0. With `spread` at 0 all schedules vary equally; else the baseline varies most
of all, as the untouched network does among scales below 1, and a schedule at |a_1| = 1 least.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skiptune.objectives.reference import Reference

__all__ = ["BASELINE", "FIELDS", "OPTIMUM", "Family"]

Array = NDArray[np.float64]
Point = tuple[float, float]

FIELDS = 4

BASELINE: Point = (0.0, 0.0)
OPTIMUM: Point = (0.5, -0.4)
"""Where a planted optimum lies: a third of the square is then better than the baseline."""

# The spectrum of features falls over two orders of magnitude, as that of real networks does.
_DECAY = 4.0
_SHARE = 0.98  # of common noise: paired errors are then some hundredths of the distance's own
_TURN = 0.25  # of u, in right angles at the edge
_MIX = 0.8  # of e, likewise


@dataclass(frozen=True, eq=False)
class Family:
    """All schedules of one search.

    Arguments:
        dim: Features d, even and at least 8.
        distance: Of the baseline, and of all schedules where nothing is planted.
        spread: How much more than the reference the baseline spreads, below 0.7.
        gain: How far the planted optimum lies below the baseline; 0 for a null.
    """

    dim: int
    distance: float
    spread: float = 0.0
    gain: float = 0.0

    @cached_property
    def variances(self) -> Array:
        """Those of the reference, float64 [d]."""
        found: Array = np.exp(-_DECAY * np.arange(self.dim) / self.dim)
        return found

    @cached_property
    def reference(self) -> Reference:
        """Statistics of the real features."""
        return Reference(
            name="gaussian",
            extractor="simulated",
            sha256="0" * 64,
            preprocess="none",
            dim=self.dim,
            images=None,
            mean=np.zeros(self.dim),
            covariance=np.diag(self.variances),
            header={},
        )

    def true_distance(self, point: Point) -> float:
        """Return the distance of infinitely many images of a schedule."""
        return self.distance - self.gain_at(point)

    def gain_at(self, point: Point) -> float:
        """Return the distance's fall from the baseline to a schedule: a bowl about `OPTIMUM`."""
        apart = math.dist(point, OPTIMUM) / math.dist(BASELINE, OPTIMUM)
        return self.gain * (1 - apart**2)

    def noise(self, generator: np.random.Generator, images: int) -> Array:
        """Draw what all schedules share, float64 [4, N, d]."""
        return generator.standard_normal((FIELDS, images, self.dim))

    def rows(self, point: Point, noise: Array) -> Array:
        """Return the features of a schedule's images, float64 [N, d]."""
        shift, factors = self.moments(point)
        own = math.sqrt(1 - _SHARE**2) * _on_sphere(point, _MIX)
        weights = np.array([_SHARE, *own])
        mixed = np.tensordot(weights, noise, axes=1)
        rows: Array = shift + factors * mixed
        return rows

    def moments(self, point: Point) -> tuple[Array, Array]:
        """Return mean and standard deviations of a schedule's features, float64 [d] each."""
        factors = 1 + self.spread * self._turned(point)
        left = self.true_distance(point) - self.spread**2 * float(self.variances.sum())
        if left < 0:
            raise ValueError("the spread alone is farther than the distance that is asked for")
        unit = _on_sphere(point, _TURN) @ self._axes
        return math.sqrt(left) * unit, factors * np.sqrt(self.variances)

    @cached_property
    def _axes(self) -> Array:
        """Three orthonormal directions, float64 [3, d]."""
        drawn = np.random.default_rng(11).standard_normal((self.dim, 3))
        return np.linalg.qr(drawn)[0].T

    def _turned(self, point: Point) -> Array:
        """Return q, float64 [d]: 1 at the baseline, -1 at |a_1| = 1."""
        first, second = self._patterns
        across = (
            math.cos(math.pi / 2 * point[1]) * first + math.sin(math.pi / 2 * point[1]) * second
        )
        angle = math.pi * point[0]
        turned: Array = math.cos(angle) + math.sin(angle) * across
        return turned

    @cached_property
    def _patterns(self) -> tuple[Array, Array]:
        """Two directions that are orthogonal to 1 and to each other by the weights v, of its
        length."""
        v = self.variances
        length = float(v.sum())
        places = np.arange(self.dim)
        basis = [np.ones(self.dim)]
        for raw in ((-1.0) ** places, (-1.0) ** (places // 2)):
            left = raw - sum(float(v @ (raw * known)) / length * known for known in basis)
            basis.append(np.asarray(left * math.sqrt(length / float(v @ left**2)), np.float64))
        return basis[1], basis[2]


def _on_sphere(point: Point, turn: float) -> Array:
    """Return a unit vector [3] that turns with the point: (1, 0, 0) at the baseline."""
    first, second = (math.pi / 2 * turn * value for value in point)
    return np.array(
        [
            math.cos(first) * math.cos(second),
            math.sin(first) * math.cos(second),
            math.sin(second),
        ]
    )
