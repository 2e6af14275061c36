"""An Optuna sampler that models the moments of features instead of the distance.

Each question is answered from what has been evaluated so far and from the number of the proposal,
so the same rows give the same proposal. The first proposals form a design around the baseline, or
around the best schedule of a warm start.
From then on a `MomentModel` is made about the best schedule so far, the centre, and the proposal
minimises

    predicted distance - |z| * scale * sqrt(predicted variance),    z standard normal, drawn anew

in a box about the centre (a randomised lower confidence bound: Srinivas et al. 2010, arXiv
0912.3995; Berk et al. 2020, arXiv 2006.04296). `scale` comes from evaluations that the model was
made without. Schedules that others still sample count in the variance as if they were seen
(Desautels et al. 2014, arXiv 1206.6402), and z differs: any number of workers propose different
schedules. The box grows where a proposal was better than all before and shrinks where it was not
(the one-fifth rule of Rechenberg 1973, with the factors of Kern et al. 2004), and never reaches a
schedule whose images were not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from skiptune.objectives.moment_model import MomentModel, Seen, left_out
from skiptune.objectives.reference import Reference
from skiptune.search.log_scales import LogScaleSampler

__all__ = [
    "MOST",
    "Known",
    "MomentSampler",
    "Question",
    "Source",
    "best",
    "design",
    "expected_improvement",
    "half_width",
    "nearest",
    "startup",
]

Array = NDArray[np.float64]

MOST: Final = 100
"""Evaluations that a model is made of: the nearest to the centre."""

DESIGN_RADIUS: Final = 0.12
"""Root mean square of the design's log scales: at twice that, most schedules are far worse than
the baseline, and at half of it little is learnt of where the quadratic bends."""

FIRST, LEAST, LARGEST = 0.2, 0.03, 0.5
"""Half width of the box in log scale: at first, and within which ends."""

GROWTH: Final = 1.5
"""Factor of the half width after a success; four failures in a row undo it."""

FOLDS: Final = 5
"""Parts of the evaluations that are left out in turn to see how wrong predictions are."""

DESCENTS, STEPS = 2, 30
"""Descents from random points of the box, and steps of each."""

# A diverged schedule keeps the box from reaching further than this part of the way to it.
_SHY = 0.7


@dataclass(frozen=True, eq=False)
class Known:
    """An evaluation that has a score.

    Arguments:
        number: Of the proposal, from 1 on; 0 is the baseline.
        logs: float64 [p], the logarithms of its parameters.
        value: Its corrected distance, on the scale that Optuna is told.
        seen: Reads its moments; None where they cannot be had now.
    """

    number: int
    logs: Array
    value: float
    seen: Callable[[], Seen | None]


class Source(Protocol):
    """Where a sampler learns what has been evaluated."""

    def known(self) -> Sequence[Known]:
        """Return the evaluations that have a score, by number, the baseline first."""

    @property
    def reference(self) -> Reference:
        """Statistics of real features, of the features whose moments are seen."""


@dataclass(frozen=True)
class Question:
    """Which proposal is asked for.

    Arguments:
        seed: Of the study.
        number: Of the proposal, from 1 on.
        attempt: How many answers to this very question were schedules that are known.
    """

    seed: int
    number: int
    attempt: int = 0


class MomentSampler(LogScaleSampler):
    """Proposes the minimiser of a distance predicted through moments.

    Arguments:
        source: What has been evaluated.
        distributions: What is searched: floats in log scale.
        question: Which proposal is asked for.
        around: float64 [p], logarithms of the schedule that the design lies around; None for the
            untouched network.
        designed: The first proposals form a design. Not where others have proposed before.
    """

    def __init__(
        self,
        source: Source,
        *,
        distributions: Mapping[str, BaseDistribution],
        question: Question,
        around: Array | None = None,
        designed: bool = True,
    ) -> None:
        super().__init__(distributions, seed=question.number)
        self._source = source
        self._question = question
        self._around = around
        self._startup = startup(len(distributions)) if designed else 0

    def propose(self, study: Study, low: Array, high: Array) -> Array:
        """Return the logarithms of a proposal, float64 [p]."""
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        diverged = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        return self._proposal(low, high, self._logs(running), self._logs(diverged))

    def _logs(self, trials: Sequence[FrozenTrial]) -> list[Array]:
        names = self._ranges.keys()
        return [
            np.log([trial.params[name] for name in names])
            for trial in trials
            if names <= trial.params.keys()
        ]

    def _proposal(
        self, low: Array, high: Array, pending: list[Array], diverged: list[Array]
    ) -> Array:
        known, question, size = self._source.known(), self._question, len(low)
        model = None
        if not _designed(question.number, len(known) - 1, self._startup):
            centre = best(known)
            seen = nearest(known, centre)
            if len(seen) > 2:
                model = MomentModel(seen, self._source.reference)
        if model is None:
            # A range may leave the untouched network out.
            middle = np.clip(0.0, low, high) if self._around is None else self._around
            return np.clip(middle + design(question, size), low, high)
        width = half_width(known, self._startup)
        for logs in diverged:
            width = min(width, _SHY * float(np.abs(logs - centre.logs).max()))
        box = np.clip(centre.logs - width, low, high), np.clip(centre.logs + width, low, high)
        rng = np.random.default_rng([question.seed, question.number, question.attempt, 1])
        scale = left_out(seen, self._source.reference, folds=FOLDS).scale
        bold = abs(rng.standard_normal()) * scale

        def bound(logs: Array) -> tuple[float, Array]:
            found = model.predict(logs, pending=pending)
            # Without the small number the root has no derivative at the centre.
            deviation = math.sqrt(found.variance + 1e-12)
            slope = found.variance_gradient / (2 * deviation)
            return found.value - bold * deviation, found.gradient - bold * slope

        ends = []
        for _ in range(DESCENTS):
            begin = centre.logs + rng.uniform(0.0, 0.5) * (rng.uniform(*box) - centre.logs)
            ends.append(_descent(bound, begin, box))
        return min(ends, key=lambda end: end[0])[1]


def expected_improvement(
    source: Source, number: int, *, box: tuple[Array, Array], designed: bool = True
) -> float | None:
    """Return how far the least predicted distance lies below the best schedule's.

    In the box of the next proposal; of its error nothing is taken off, so a proposal that explores
    may find more, and one that is right finds this.

    Arguments:
        source: What has been evaluated.
        number: Of the next proposal, from 1 on.
        box: Lowest and highest logarithms of the parameters, float64 [p] each.
        designed: As for `MomentSampler`.

    Returns:
        At least 0, in the distance's unit; None as long as proposals are of the design.
    """
    known, (low, high) = source.known(), box
    first = startup(len(low)) if designed else 0
    if _designed(number, len(known) - 1, first):
        return None
    centre = best(known)
    seen = nearest(known, centre)
    if len(seen) < 3:
        return None
    model, width = MomentModel(seen, source.reference), half_width(known, first)
    box = np.clip(centre.logs - width, low, high), np.clip(centre.logs + width, low, high)

    def predicted(logs: Array) -> tuple[float, Array]:
        found = model.predict(logs)
        return found.value, found.gradient

    rng = np.random.default_rng([number, 2])
    begins = [centre.logs, *(rng.uniform(*box) for _ in range(DESCENTS))]
    here = model.value(centre.logs)
    return here - min([here, *(_descent(predicted, begin, box)[0] for begin in begins)])


def startup(size: int) -> int:
    """Return the proposals of the design for so many parameters: half of them, and two."""
    return size // 2 + 2


def design(question: Question, size: int) -> Array:
    """Return a proposal of the design, float64 [p]: orthogonal directions, in random ones.

    Every p of them are p orthogonal vectors of equal length, uniformly distributed, so that each
    parameter is told apart from the others by as few as can be.
    """
    block, row = divmod(question.number - 1, size)
    rng = np.random.default_rng([question.seed, block, question.attempt, 0])
    vectors, triangle = np.linalg.qr(rng.standard_normal((size, size)))
    # Without the signs the vectors would not be uniform (Mezzadri 2007, math-ph/0609050).
    directions = (vectors * np.sign(np.diagonal(triangle))).T
    point: Array = DESIGN_RADIUS * math.sqrt(size) * directions[row]
    return point


def half_width(known: Sequence[Known], designed: int) -> float:
    """Return the half width of the box in log scale, after all proposals since the design.

    Arguments:
        known: By number, the baseline first.
        designed: Proposals of the design.
    """
    width, best = FIRST, math.inf
    for one in known:
        if one.number > designed:
            width *= GROWTH if one.value < best else GROWTH**-0.25
            width = min(max(width, LEAST), LARGEST)
        best = min(best, one.value)
    return width


def _designed(number: int, ended: int, designed: int) -> bool:
    """Whether a proposal is of the design: the first ones, and while too few have ended."""
    return number <= designed or 2 * ended < designed


def best(known: Sequence[Known]) -> Known:
    """Return the evaluation of the least distance."""
    return min(known, key=lambda one: (one.value, one.number))


def nearest(known: Sequence[Known], centre: Known) -> list[Seen]:
    """Return the moments of the `MOST` evaluations nearest to the centre, which is the first.

    Those whose moments cannot be read are left out; without the centre there are none.
    """

    def distance(one: Known) -> tuple[float, int]:
        return float(np.sum(np.square(one.logs - centre.logs))), one.number

    order = sorted(known, key=distance)
    seen: list[Seen] = []
    for one in order:
        found = one.seen()
        if found is not None:
            seen.append(found)
        elif one is centre:
            return []
        if len(seen) == MOST:
            break
    return seen


def _descent(
    function: Callable[[Array], tuple[float, Array]], begin: Array, box: tuple[Array, Array]
) -> tuple[float, Array]:
    """Return the least value found within a box, and where.

    A projected gradient with the steps of Barzilai and Borwein (Birgin, Martinez and Raydan 2000,
    "Nonmonotone spectral projected gradient methods"; here monotone).

    Arguments:
        function: Value and gradient.
        begin: float64 [p], in the box.
        box: Lower and upper ends, float64 [p] each.
    """
    low, high = box
    width = max(float((high - low).max()), 1e-12)
    here, (value, slope) = begin, function(begin)
    step = 0.3 * width / max(float(np.abs(slope).max()), 1e-300)
    for _ in range(STEPS):
        for _ in range(10):
            there = np.clip(here - step * slope, low, high)
            if float(np.abs(there - here).max()) < 1e-4 * width:
                return value, here
            new_value, new_slope = function(there)
            if new_value <= value + 1e-4 * float(slope @ (there - here)):
                break
            step *= 0.3
        else:
            return value, here
        moved, bent = there - here, new_slope - slope
        here, value, slope = there, new_value, new_slope
        curvature = float(moved @ bent)
        step = float(moved @ moved) / curvature if curvature > 0 else 2 * step
    return value, here
