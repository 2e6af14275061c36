"""An Optuna sampler that walks down slopes of the objective.

From the best schedule so far whose slopes are known, the origin, proposals go along one direction
in log scale. Every parameter has a step of its own, because some bend the objective a hundred
times more than others: it grows where a slope keeps its sign from origin to origin and shrinks
where it turns (Rprop: Riedmiller and Braun 1993, "A direct adaptive method for faster
backpropagation learning"), and only a slope that is clear of its error moves its parameter. Steps
of several lengths are tried, and a proposal that turns out better becomes the next origin. Where
none was, the descent has arrived: the search goes on with a model of moments where one can be made
(`samplers.sampler_for`), else along directions drawn from the slopes' errors, so that any number
of workers propose different schedules. Everything is a function of what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution

from skiptune.search.log_scales import LogScaleSampler

__all__ = [
    "FIRST",
    "LENGTHS",
    "DescentSampler",
    "Origin",
    "proposal",
    "shrunk",
    "step_downhill",
]

Array = NDArray[np.float64]

FIRST: Final = 0.06
"""First step of a parameter in log scale: most single scales of a trained network bear a change
of 6 %, and all of them together still show beside the error at 8 d images."""

LENGTHS: Final = (1.0, 0.5, 2.0, 0.25)
"""Lengths that are tried along one direction, in steps."""

GROWTH, SHRINKAGE = 1.2, 0.5  # of a step whose slope keeps, or turns, its sign: Rprop's own
LEAST, LARGEST = 0.005, 0.25  # of a step in log scale
_SAME = 1e-6  # log scales that differ by less are one schedule


@dataclass(frozen=True, eq=False)
class Origin:
    """Where steps begin.

    Arguments:
        logs: float64 [P], logarithms of the parameters.
        slopes: float64 [P], of the objective in each; negative where a larger scale is better.
        errors: float64 [P], their standard errors.
        steps: float64 [P], how far each parameter moves in log scale.
    """

    logs: Array
    slopes: Array
    errors: Array
    steps: Array

    @classmethod
    def after(cls, slopes: Sequence[tuple[Array, Array]], *, logs: Array) -> Origin:
        """Return an origin, its steps learnt from all origins so far.

        Arguments:
            slopes: Slopes and their errors, float64 [P] each, of every origin in order; the last
                ones are this origin's.
            logs: As for the class.
        """
        steps = np.full(len(logs), FIRST)
        for (before, before_errors), (here, here_errors) in pairwise(slopes):
            kept = shrunk(before, before_errors) * shrunk(here, here_errors)
            steps = steps * np.where(kept > 0, GROWTH, np.where(kept < 0, SHRINKAGE, 1.0))
        return cls(logs, *slopes[-1], np.clip(steps, LEAST, LARGEST))

    def step(self, length: float, low: Array | float, high: Array | float) -> Array:
        """Return where a step of a length leads downhill, float64 [P], inside a box.

        Arguments:
            length: In steps.
            low: Lowest log scales.
            high: Highest ones.
        """
        direction = _downhill(self.slopes, self.errors)
        found: Array = np.clip(self.logs + length * self.steps * direction, low, high)
        return found

    def expected(self, low: Array | float, high: Array | float) -> float:
        """Return by how much a whole step lowers the objective, by the clear part of its slopes.

        At least 0, in the objective's unit; how the objective bends is not known, so this is the
        most that may be hoped for.
        """
        moved = self.step(1.0, low, high) - self.logs
        return -float(shrunk(self.slopes, self.errors) @ moved)


class DescentSampler(LogScaleSampler):
    """Proposes steps from an origin.

    Arguments:
        origin: Where they begin.
        tried: float64 [P] each: logarithms of everything that was proposed so far.
        distributions: What is searched: floats in log scale.
        seed: Of what is drawn: a function of the study and the number of the proposal.
    """

    def __init__(
        self,
        origin: Origin,
        tried: Sequence[Array],
        *,
        distributions: Mapping[str, BaseDistribution],
        seed: int,
    ) -> None:
        super().__init__(distributions, seed=seed)
        self._origin = origin
        self._tried = tried
        self._seed = seed

    @property
    def arrived(self) -> bool:
        """Whether every step straight downhill has been tried from here."""
        return step_downhill(self._origin, self._tried, box=self.box()) is None

    def propose(self, study: Study, low: Array, high: Array) -> Array:
        """Return the logarithms of the next step, float64 [P]."""
        rng = np.random.default_rng(self._seed)
        return proposal(self._origin, self._tried, box=(low, high), rng=rng)


def proposal(
    origin: Origin,
    tried: Sequence[Array],
    *,
    box: tuple[Array, Array],
    rng: np.random.Generator,
) -> Array:
    """Return the next step from an origin, float64 [P], inside the box.

    The lengths along the downhill direction come first, those that nobody has tried; then steps
    along slopes drawn from their errors.

    Arguments:
        origin: Where steps begin.
        tried: What was proposed so far.
        box: Lowest and highest log scales, float64 [P] each.
        rng: What is drawn.
    """
    low, high = box
    downhill = step_downhill(origin, tried, box=box)
    if downhill is not None:
        return downhill
    drawn = origin.slopes + origin.errors * rng.standard_normal(len(origin.slopes))
    direction = _downhill(drawn, origin.errors)
    length = float(rng.uniform(0.25, 1.0))
    found: Array = np.clip(origin.logs + length * origin.steps * direction, low, high)
    return found


def step_downhill(
    origin: Origin, tried: Sequence[Array], *, box: tuple[Array, Array]
) -> Array | None:
    """Return the next step straight downhill, float64 [P], inside the box.

    None where no slope is clear of its error, or all lengths have been tried: what is better lies
    closer, or is not where single slopes point.

    Arguments:
        origin: Where steps begin.
        tried: What was proposed so far.
        box: Lowest and highest log scales, float64 [P] each.
    """
    if not np.any(_downhill(origin.slopes, origin.errors)):
        return None
    for length in LENGTHS:
        there = origin.step(length, *box)
        if not any(float(np.abs(there - other).max()) < _SAME for other in tried):
            return there
    return None


def shrunk(slopes: Array, errors: Array) -> Array:
    """Return slopes moved towards 0 by as much as their errors explain, float64 [P].

    Each is multiplied by max(0, 1 - (error / slope)^2), the positive-part James-Stein factor for
    one number (Efron and Morris 1973): what lies within its error does not move a scale.

    Arguments:
        slopes: float64 [P].
        errors: float64 [P], their standard errors.
    """
    power = np.square(slopes)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factor = np.where(power > 0, 1 - np.square(errors) / power, 0.0)
    found: Array = slopes * np.clip(factor, 0.0, 1.0)
    return found


def _downhill(slopes: Array, errors: Array) -> Array:
    """Return the direction in which every clear slope falls, each from -1 to 1, float64 [P]."""
    clear = shrunk(slopes, errors)
    whole = np.where(slopes == 0, 1.0, np.abs(slopes))
    found: Array = -clear / whole
    return found
