"""Which kernel the emulator takes, and how far it is off.

Kernels are compared by the points that they were fitted to, each predicted without itself; the
held-out points then say how good the chosen one is and take no part in the choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.landscape_emulator import Emulator, Kernel, Measured, population_distance
from skiptune.objectives.frechet import frechet_of_moments
from skiptune.objectives.reference import Reference

__all__ = ["Check", "candidates", "check", "choose", "sensitivities"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Check:
    """One point, measured and predicted.

    Arguments:
        name: Of the point.
        measured: Distance to the reference, minus the baseline's, of the same images.
        predicted: The same, by an emulator that has not seen the point.
        paired_error: Standard error of the corrected paired difference to the baseline.
    """

    name: str
    measured: float
    predicted: float
    paired_error: float

    @property
    def off(self) -> float:
        """The absolute error in paired standard errors."""
        return abs(self.predicted - self.measured) / self.paired_error


def choose(
    measured: Measured, reference: Reference, *, paired_errors: Array, kernels: Sequence[Kernel]
) -> tuple[Emulator, float]:
    """Return the emulator of the smallest mean left-out error, and that error.

    Arguments:
        measured: Points to fit to.
        reference: That distances are taken to.
        paired_errors: float64 [K], the unit of each point's error.
        kernels: Candidates, each tried with and without `recolour`.
    """
    truth = np.array([population_distance(rows, reference) for rows in measured.features])
    best: tuple[Emulator, float] | None = None
    for kernel in kernels:
        for recolour in (False, True):
            emulator = Emulator(measured, kernel, recolour)
            found = [frechet_of_moments(*left, reference) for left in emulator.left_out()]
            error = float((np.abs(np.array(found) - truth) / paired_errors).mean())
            if best is None or error < best[1]:
                best = emulator, error
    if best is None:
        raise ValueError("no kernel to choose from")
    return best


def candidates(measured: Measured, *, count: int, seed: int = 0) -> Iterator[Kernel]:
    """Yield so many kernels at random, from a fixed seed.

    Lengths are shorter where a coordinate moves the features more, to a power between none and
    proportional.
    """
    rng = np.random.default_rng(seed)
    slopes = sensitivities(measured)
    for _ in range(count):
        overall = float(np.exp(rng.uniform(np.log(0.2), np.log(2.0))))
        lengths = overall * slopes ** -float(rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]))
        yield Kernel(
            lengths=tuple(float(length) for length in lengths),
            quadratic=float(rng.choice([0.0, 0.1, 0.3, 1.0, 3.0])),
            local=float(rng.choice([0.3, 1.0, 3.0, 10.0, 30.0])),
            ridge=float(10 ** rng.uniform(-7, -2)),
        )


def sensitivities(measured: Measured) -> Array:
    """Return how much the features move along each coordinate, float64 [p], mean 1.

    The root mean square, over images and features, of the slopes of a lightly ridged linear fit
    to the changes against the baseline.
    """
    points = measured.points
    gram = points.T @ points
    gram += 1e-2 * np.trace(gram) / len(gram) * np.eye(len(gram))
    slopes = np.linalg.solve(gram, points.T) @ measured.changes
    moved = np.sqrt((slopes**2).mean(axis=1))
    found: Array = moved / moved.mean()
    return found


def check(
    emulator: Emulator,
    reference: Reference,
    *,
    names: Sequence[str],
    points: Array,
    features: NDArray[np.float32],
    paired_errors: Array,
) -> list[Check]:
    """Predict points that were measured and not fitted.

    Arguments:
        emulator: The one to check.
        reference: That distances are taken to.
        names: Of the points.
        points: float64 [M, p], coordinates.
        features: float32 [M, n, d], as measured.
        paired_errors: float64 [M].
    """
    base = population_distance(emulator.measured.baseline, reference)
    rows = zip(names, points, features, paired_errors, strict=True)
    return [
        Check(
            name=name,
            measured=population_distance(there, reference) - base,
            predicted=population_distance(emulator.features(point), reference) - base,
            paired_error=float(error),
        )
        for name, point, there, error in rows
    ]
