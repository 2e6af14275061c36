"""Small landscapes with a known shape, for the tests of replays and emulators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.landscape_emulator import Emulator, Kernel, Measured
from bench.replays import World
from skiptune.objectives.reference import Reference

__all__ = ["DIM", "features_at", "reference", "small_world"]

DIM, IMAGES, SKIPS = 4, 60, 2
Features = NDArray[np.float32]


def reference() -> Reference:
    """Return a reference in as many features."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(200, DIM))
    covariance = np.cov(rows.T)
    return Reference("r", "e", "0", "p", DIM, 200, rows.mean(0), covariance, {})


def features_at(point: NDArray[np.float64]) -> Features:
    """Return features that are linear in the two log scales, the same images at every point."""
    rng = np.random.default_rng(6)
    start = 1.0 + rng.normal(size=(IMAGES, DIM))
    slopes = rng.normal(size=(SKIPS, IMAGES, DIM)) + np.array([2.0, 0.0, 1.0, 0.0])
    moved: Features = (start + np.tensordot(point, slopes, axes=1)).astype(np.float32)
    return moved


def small_world() -> World:
    """Return a problem of two scales whose emulator is exact: features are linear."""
    rng = np.random.default_rng(7)
    points = rng.normal(0, 0.2, size=(8, SKIPS))
    measured = Measured(
        points=points,
        features=np.array([features_at(point) for point in points]),
        baseline=features_at(np.zeros(SKIPS)),
    )
    kernel = Kernel(lengths=(0.3, 0.3), quadratic=0.0, local=0.0, ridge=1e-9)
    return World("small", ("a", "b"), 0.7, 1 / 0.7, Emulator(measured, kernel), reference())
