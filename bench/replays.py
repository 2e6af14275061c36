"""Replays of a search: all that sampling would cost and show, without a network.

A `World` is one search problem on an emulated landscape: a population of n images whose features
are known at any schedule. Its distance of that population is the truth, so regret is exact. A
replay draws the images of seed 0, 1, 2, ... from the population with replacement, the same
ones for all schedules (common seeds); another replay draws others. What a strategy sees has
thus the noise, the pairing and the bias in N of real samples.

An `Oracle` is one replay. It charges 250 images for each chunk that is sampled, once for each
schedule: what was sampled before is stored and free, as in skiptune. A strategy that cannot make
use of that pays for nothing else. Scores are those of `skiptune.objectives.paired` to the last
digits (moments come from how often each image was drawn, which is the same sum in another order).

A `Strategy` proposes, pays, and yields what it would recommend after each decision. `replayed`
turns that into regret against images. To add one, write one class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.landscape_emulator import Emulator, population_distance
from skiptune.objectives.extrapolation import GROUPS, PLAIN, QUARTERS, Extrapolation, extrapolate
from skiptune.objectives.frechet import frechet_of_moments
from skiptune.objectives.moments import Part
from skiptune.objectives.paired import Estimate
from skiptune.objectives.reference import Reference

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = [
    "CHUNK",
    "Curve",
    "Oracle",
    "Params",
    "Score",
    "Strategy",
    "World",
    "minimiser",
    "replayed",
]

Array = NDArray[np.float64]
Features = NDArray[np.float32]
Params = Mapping[str, float]

CHUNK = 250
"""Images that are leased, sampled and stored together."""


@dataclass(frozen=True, eq=False)
class World:
    """One search problem with a known truth.

    Arguments:
        name: Of the space.
        names: Of the parameters, in the order of the emulator's coordinates.
        low: Smallest scale of each.
        high: Largest.
        emulator: Of per-image features.
        reference: That distances are taken to.
        best: The optimum where it is known; None searches for it.
    """

    name: str
    names: tuple[str, ...]
    low: float
    high: float
    emulator: Emulator
    reference: Reference
    best: Params | None = None

    @property
    def baseline(self) -> dict[str, float]:
        """The untouched network's parameters."""
        return dict.fromkeys(self.names, 1.0)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return what Optuna's ask takes."""
        from optuna.distributions import FloatDistribution

        return {name: FloatDistribution(self.low, self.high, log=True) for name in self.names}

    def point(self, params: Params) -> Array:
        """Return the emulator's coordinates, float64 [p]: log parameters."""
        point: Array = np.log(np.array([params[name] for name in self.names]))
        return point

    def params(self, point: Array) -> dict[str, float]:
        """Return the parameters at coordinates, kept within the range."""
        scales = np.clip(np.exp(point), self.low, self.high)
        return dict(zip(self.names, (float(scale) for scale in scales), strict=True))

    def population(self, params: Params) -> Features:
        """Return the features of the whole population, float32 [n, d]."""
        return self.emulator.features(self.point(params))

    def distance(self, params: Params) -> float:
        """Return the true distance."""
        return population_distance(self.population(params), self.reference)

    @cached_property
    def baseline_distance(self) -> float:
        """The true distance of the untouched network."""
        return self.distance(self.baseline)

    @cached_property
    def optimum(self) -> dict[str, float]:
        """The best schedule of the space: the best end of many descents from random starts."""
        if self.best is not None:
            return dict(self.best)
        return minimiser(self, starts=10, steps=80)

    @cached_property
    def gain(self) -> float:
        """How far the optimum lies below the baseline, in units of the distance."""
        return self.baseline_distance - self.distance(self.optimum)

    def regret(self, params: Params) -> float:
        """Return the part of the possible gain that a schedule leaves: 0 the optimum, 1 the
        baseline, above 1 what is worse than it."""
        return 1 - (self.baseline_distance - self.distance(params)) / self.gain


@dataclass(frozen=True, eq=False)
class Score:
    """What a number of images say of one schedule.

    Arguments:
        images: N.
        raw: The plain distance.
        corrected: The distance corrected for the bias in N; None below 4 images a feature, where
            it is not defined.
        influence: float64 [4, n]: that of each image of the population in each group of seeds;
            None like `corrected`.
        drawn: float64 [4, n]: how often each was drawn.
    """

    images: int
    raw: float
    corrected: float
    influence: Array
    drawn: Array

    def less(self, other: Score) -> Estimate:
        """Return this corrected distance less another on the same seeds, with its paired error."""
        if self.images != other.images:
            raise ValueError(f"{self.images} images cannot be paired with {other.images}")
        psi = self.influence - other.influence
        mean = float((self.drawn * psi).sum()) / self.images
        squares = float((self.drawn * (psi - mean) ** 2).sum()) / (self.images - 1)
        return Estimate(
            self.corrected - other.corrected, math.sqrt(squares / self.images), self.images
        )


@dataclass(eq=False)
class Oracle:
    """One replay: its images, and what was paid for them.

    Arguments:
        world: The problem.
        seed: Of the images: equal seeds, equal images.
        spent: Images paid for so far.
    """

    world: World
    seed: int
    spent: int = 0
    _chunks: list[NDArray[np.intp]] = field(default_factory=list)
    _sampled: dict[tuple[float, ...], set[int]] = field(default_factory=dict)
    _populations: dict[tuple[float, ...], Features] = field(default_factory=dict)
    _drawn: dict[int, Array] = field(default_factory=dict)

    def features(self, params: Params, first_chunk: int, chunks: int) -> Features:
        """Sample chunks of a schedule and return the rows, float32 [250 chunks, d].

        Arguments:
            params: The schedule.
            first_chunk: 0 is the one that every search begins with.
            chunks: How many.
        """
        self.charge(params, first_chunk, chunks)
        rows = [self.drawn_rows(chunk) for chunk in range(first_chunk, first_chunk + chunks)]
        return self.population(params)[np.concatenate(rows)]

    def raw(self, params: Params, chunks: int) -> float:
        """Return the plain distance of a schedule's first chunks, sampled where they are not."""
        self.charge(params, 0, chunks)
        drawn = self.drawn(chunks).sum(axis=0)
        rows = self.population(params).astype(np.float64)
        count = drawn.sum()
        mean = drawn @ rows / count
        centred = rows - mean
        covariance = (centred * drawn[:, None]).T @ centred / (count - 1)
        return frechet_of_moments(mean, covariance, self.world.reference)

    def score(self, params: Params, chunks: int) -> Score:
        """Return all that a schedule's first chunks say, sampled where they are not."""
        self.charge(params, 0, chunks)
        drawn = self.drawn(chunks)
        rows = self.population(params).astype(np.float64)
        centre = rows.mean(axis=0)
        rows -= centre
        parts = [Part(int(of.sum()), of @ rows, (rows * of[:, None]).T @ rows) for of in drawn]
        plain, found = extrapolate(parts, centre, self.world.reference, (PLAIN, QUARTERS))
        return Score(
            images=CHUNK * chunks,
            raw=plain.value,
            corrected=found.value,
            influence=_influence(found, rows),
            drawn=drawn,
        )

    def charge(self, params: Params, first_chunk: int, chunks: int) -> None:
        """Pay for those of a schedule's chunks that were not sampled before."""
        there = self._sampled.setdefault(self._key(params), set())
        new = set(range(first_chunk, first_chunk + chunks)) - there
        there |= new
        self.spent += CHUNK * len(new)

    def drawn_rows(self, chunk: int) -> NDArray[np.intp]:
        """Return which images of the population a chunk's seeds are, [250]."""
        size = len(self.world.emulator.measured.baseline)
        while len(self._chunks) <= chunk:
            rng = np.random.default_rng([self.seed, len(self._chunks)])
            self._chunks.append(rng.integers(0, size, CHUNK))
        return self._chunks[chunk]

    def drawn(self, chunks: int) -> Array:
        """Return how often each image is among the first chunks, by group, float64 [4, n]."""
        if chunks not in self._drawn:
            size = len(self.world.emulator.measured.baseline)
            rows = np.concatenate([self.drawn_rows(chunk) for chunk in range(chunks)])
            counts = [np.bincount(rows[group::GROUPS], minlength=size) for group in range(GROUPS)]
            self._drawn[chunks] = np.array(counts, dtype=np.float64)
        return self._drawn[chunks]

    def population(self, params: Params) -> Features:
        """Return what `World.population` does, and remember it: nothing here is charged."""
        key = self._key(params)
        if key not in self._populations:
            self._populations[key] = self.world.population(params)
        return self._populations[key]

    def _key(self, params: Params) -> tuple[float, ...]:
        return tuple(params[name] for name in self.world.names)


class Strategy(Protocol):
    """A way to search."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    @property
    def images_per_proposal(self) -> int:
        """About how many images a proposal costs on average: bounds the length of replays."""

    def settings(self) -> dict[str, object]:
        """Return what it was run with, as plain data for the result file; `sampler` among it."""

    def run(self, oracle: Oracle, budget: int) -> Iterator[tuple[int, Params]]:
        """Search until about so many images are paid for.

        Arguments:
            oracle: The replay; its seed also seeds the strategy's own random numbers.
            budget: Images. A strategy ends with the first decision at or above it.

        Yields:
            After each decision: images paid for, and the schedule that would be recommended.
        """


@dataclass(frozen=True)
class Curve:
    """What one replay recommended, when.

    Arguments:
        images: Paid for when a recommendation was made, never falling.
        regret: Of that recommendation.
    """

    images: tuple[int, ...]
    regret: tuple[float, ...]

    def at(self, images: int) -> float:
        """Return the regret of what is recommended after so many images: 1 before the first,
        when the baseline is all there is."""
        known = [r for paid, r in zip(self.images, self.regret, strict=True) if paid <= images]
        return known[-1] if known else 1.0

    def first(self, regret: float) -> float:
        """Return the images after which a recommendation first leaves no more than `regret`."""
        pairs = zip(self.images, self.regret, strict=True)
        return next((float(paid) for paid, left in pairs if left <= regret), math.inf)

    def settled(self, regret: float) -> float:
        """Return the images from which on all recommendations leave no more than `regret`."""
        since = math.inf
        for paid, left in zip(self.images, self.regret, strict=True):
            since = min(since, float(paid)) if left <= regret else math.inf
        return since


def replayed(strategy: Strategy, world: World, *, seed: int, budget: int) -> Curve:
    """Run a strategy once and score what it recommends on the truth."""
    oracle = Oracle(world, seed)
    images: list[int] = []
    regrets: list[float] = []
    last: Params | None = None
    for spent, params in strategy.run(oracle, budget):
        if last is not None and dict(params) == dict(last):
            continue
        rows = oracle.population(params)
        distance = population_distance(rows, world.reference)
        images.append(spent)
        regrets.append(1 - (world.baseline_distance - distance) / world.gain)
        last = params
    return Curve(tuple(images), tuple(regrets))


def minimiser(world: World, *, starts: int, steps: int, seed: int = 0) -> dict[str, float]:
    """Return the schedule of smallest true distance that projected descents find.

    Arguments:
        world: The problem.
        starts: Descents: one from the baseline, the others from uniform random points.
        steps: Most steps of each.
        seed: Of the starts.
    """
    rng = np.random.default_rng(seed)
    low, high = math.log(world.low), math.log(world.high)
    begun = [np.zeros(len(world.names))]
    begun += [rng.uniform(low, high, len(world.names)) for _ in range(starts - 1)]
    ends = [_descent(world, start, steps) for start in begun]
    found = [world.params(end) for end in ends]
    return min(found, key=world.distance)


def _descent(world: World, point: Array, steps: int) -> Array:
    """Return where a projected gradient descent with doubling and halving steps ends."""
    low, high = math.log(world.low), math.log(world.high)
    value, step = _value(world, point), 0.05
    for _ in range(steps):
        slope = _slope(world, point)
        at_edge = ((point <= low) & (slope > 0)) | ((point >= high) & (slope < 0))
        slope = np.where(at_edge, 0.0, slope)
        size = float(np.linalg.norm(slope))
        if size == 0 or step < 1e-5:
            break
        trial = np.clip(point - step * slope / size, low, high)
        found = _value(world, trial)
        if found < value:
            point, value, step = trial, found, step * 1.5
        else:
            step /= 3
    return point


def _value(world: World, point: Array) -> float:
    return frechet_of_moments(*world.emulator.moments(point), world.reference)


def _slope(world: World, point: Array, width: float = 1e-3) -> Array:
    """Return central differences of the true distance, float64 [p]."""
    shifts = width * np.eye(len(point))
    sides = [(_value(world, point + shift), _value(world, point - shift)) for shift in shifts]
    return np.array([(above - below) / (2 * width) for above, below in sides])


def _influence(found: Extrapolation, rows: Array) -> Array:
    """Return the corrected distance's influence of centred rows, float64 [4, n]."""
    squares = np.einsum("nd,nd->n", rows, rows)
    return np.array([squares + found.at(rows, group) for group in range(GROUPS)])


def median_and_quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median and quartiles of values that may be infinite, as order statistics."""
    order = sorted(values)

    def quantile(share: float) -> float:
        return order[min(len(order) - 1, int(share * len(order)))]

    return quantile(0.5), quantile(0.25), quantile(0.75)
