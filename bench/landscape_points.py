"""Which schedules the landscape is measured at: a fixed design, told by name.

All points are vectors of log scales, one per skip, deepest first; the baseline is the zero vector.
`linear` points lie on ramps from `bottom` to `top`, as in the space of that name; `skip` points
give every skip its own scale. Held-out points take no part in any fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skiptune.sampling.schedule import Schedule

__all__ = [
    "BASELINE",
    "GRID",
    "GRID_HIGH",
    "GRID_LOW",
    "Point",
    "baseline",
    "grid_points",
    "held_out_points",
    "ramp",
    "skip_points",
]

Array = NDArray[np.float64]

BASELINE = "baseline"

GRID = 7
"""Points on each axis of the linear grid, evenly spaced in log scale."""

GRID_LOW, GRID_HIGH = 0.75, 4 / 3
"""Ends of the linear grid: reciprocal, so that its centre is the baseline."""

SPREAD = 0.12
"""Standard deviation of a skip's log scale: about that of a uniform draw from log 0.8..1.25, the
range of the bundled study."""

CLIP_LOW, CLIP_HIGH = 0.7, 1.4

# Seeds of the designs, arbitrary and fixed.
_SKIP_SEED, _HELD_OUT_SEED = 17, 18


@dataclass(frozen=True, eq=False)
class Point:
    """A schedule of the design.

    Arguments:
        name: Unique, also the name of its file.
        kind: `linear` or `skip`.
        logs: float64 [skips], log scales, deepest first.
        held_out: Whether it only checks a fit.
    """

    name: str
    kind: str
    logs: Array
    held_out: bool = False

    def schedule(self, addresses: Sequence[str]) -> Schedule:
        """Return the schedule on a network's skips, deepest first."""
        scales = (float(scale) for scale in np.exp(self.logs))
        return Schedule.uniform(dict(zip(addresses, scales, strict=True)))


def ramp(bottom: float, top: float, skips: int) -> Array:
    """Return the log scales of a linear schedule, float64 [skips].

    Arguments:
        bottom: Scale of the deepest skip.
        top: Scale of the shallowest.
        skips: At least 2; the scale itself is linear in between, not its logarithm.
    """
    share = np.arange(skips) / (skips - 1)
    logs: Array = np.log(bottom + (top - bottom) * share)
    return logs


def baseline(skips: int) -> Point:
    """Return the untouched network."""
    return Point(BASELINE, "linear", np.zeros(skips))


def grid_points(skips: int) -> list[Point]:
    """Return the linear grid, bottom varying slowest; its centre is the baseline itself."""
    axis = np.exp(np.linspace(np.log(GRID_LOW), np.log(GRID_HIGH), GRID))
    axis[GRID // 2] = 1.0
    return [
        Point(f"grid-{i}-{j}", "linear", ramp(float(bottom), float(top), skips))
        for i, bottom in enumerate(axis)
        for j, top in enumerate(axis)
        if (i, j) != (GRID // 2, GRID // 2)
    ]


def skip_points(skips: int, count: int) -> list[Point]:
    """Return so many per-skip points; more of them begin with the same ones."""
    return [
        Point(f"skip-{index:03d}", "skip", logs)
        for index, logs in enumerate(_normal(_SKIP_SEED, count, skips))
    ]


def held_out_points(skips: int, *, linear: int = 5, per_skip: int = 5) -> list[Point]:
    """Return points that no fit sees: linear ones inside of the grid, and per-skip ones."""
    rng = np.random.default_rng([_HELD_OUT_SEED, 0])
    ends = np.exp(rng.uniform(np.log(GRID_LOW), np.log(GRID_HIGH), size=(linear, 2)))
    ramps = [
        Point(f"held-linear-{k}", "linear", ramp(float(b), float(t), skips), held_out=True)
        for k, (b, t) in enumerate(ends)
    ]
    others = [
        Point(f"held-skip-{k}", "skip", logs, held_out=True)
        for k, logs in enumerate(_normal(_HELD_OUT_SEED, per_skip, skips))
    ]
    return ramps + others


def _normal(seed: int, count: int, skips: int) -> list[Array]:
    rng = np.random.default_rng([seed, 1])
    drawn = rng.normal(0.0, SPREAD, size=(count, skips))
    return list(np.clip(drawn, np.log(CLIP_LOW), np.log(CLIP_HIGH)))
