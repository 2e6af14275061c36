"""The descent of `skiptune.search`, replayed: slopes of the emulated features stand for real ones.

An image's features at a schedule are known there and nearby, so their derivative in the log scales
is too, and what the left factor of the chain rule adds is the library's (`objectives.cotangents`).
Noise of the moments, blocks, errors and steps are those of a study. What a replay cannot have is
what the emulator has smoothed away: where features bend more sharply than 52 schedules show, real
slopes are worse guides. `bench/live_search.py` is without that.

Slopes are paid for like a study's time: 50 images of each chunk, four evaluations for each one of
sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bench.replays import CHUNK, Oracle, Params, Score
from bench.replays_stages import asked
from bench.replays_strategies import Ours
from skiptune.objectives.cotangents import frechet_cotangents, over_blocks
from skiptune.objectives.moment_model import Seen
from skiptune.objectives.reference import Reference
from skiptune.sampling.slopes import PASSES
from skiptune.search.candidates import Found, most_promising
from skiptune.search.descent import Origin, proposal, step_downhill
from skiptune.search.promotion import WORSE, best, places
from skiptune.search.rivals import DECIDED
from skiptune.search.sloped import BLOCKS, IMAGES, LEAST_BLOCKS
from skiptune.search.surrogate import Known, MomentSampler, Question

__all__ = ["Descent", "KnownMoments", "emulated_slopes"]

Array = NDArray[np.float64]
Slopes = tuple[Array, Array]
SlopesOf = Callable[[Oracle, Params, int], Slopes]

_WIDTH = 1e-3  # of the differences that give a derivative, in log scale


def emulated_slopes(oracle: Oracle, params: Params, chunks: int) -> Slopes:
    """Return the slopes of the corrected distance, and their standard errors, float64 [p] each.

    Arguments:
        oracle: Pays for them; the features of the chunks are sampled already.
        params: Where they are taken.
        chunks: Blocks of images, at least 2.
    """
    world = oracle.world
    point = world.point(params)
    emulator = world.emulator
    moved = [
        (emulator.features(point + step) - emulator.features(point - step)) / (2 * _WIDTH)
        for step in _WIDTH * np.eye(len(point))
    ]
    blocks = []
    for chunk in range(chunks):
        rows = oracle.features(params, chunk, 1)
        left = frechet_cotangents(rows, world.reference)[:IMAGES]
        images = oracle.drawn_rows(chunk)[:IMAGES]
        blocks.append([float((left * one[images]).sum()) / IMAGES for one in moved])
    oracle.spent += PASSES * IMAGES * chunks
    return over_blocks(blocks)


@dataclass(frozen=True)
class Descent(Ours):
    """Steps down the slopes of the best schedule so far, as in a study with that sampler.

    Where all steps from there have been tried, the sampler of moments proposes. It recommends
    what a confirm would test first, or the untouched network.

    Arguments:
        hands_over: Whether moments propose; if not, steps along slopes drawn from their errors.
        slopes: Takes them.
    """

    name: str = "descent"
    rungs: tuple[int, ...] = (2, 8)
    sampler: str = "descent"
    hands_over: bool = True
    slopes: SlopesOf = field(default=emulated_slopes, compare=False, repr=False)

    @property
    def images_per_proposal(self) -> int:
        """Return what a proposal costs where one in four is where the next slopes are taken."""
        blocks = min(self.rungs[self._level], BLOCKS)
        return super().images_per_proposal + PASSES * IMAGES * blocks // 4

    def settings(self) -> dict[str, object]:
        """Return what it is run with."""
        return {
            "rungs": [CHUNK * chunks for chunks in self.rungs],
            "promote": self.promote,
            "sampler": self.sampler,
            "hands over": self.hands_over,
            "images of slopes": PASSES * IMAGES * min(self.rungs[-1], BLOCKS),
        }

    @property
    def _level(self) -> int:
        """The first rung that bears slopes, as `search.sloped.origin_level` has it."""
        enough = [k for k, chunks in enumerate(self.rungs) if chunks >= LEAST_BLOCKS]
        return enough[0] if enough else len(self.rungs) - 1

    def run(self, oracle: Oracle, budget: int) -> Iterator[tuple[int, Params]]:
        """Yield whenever an evaluation is scored."""
        world = oracle.world
        low, high = (np.full(len(world.names), np.log(end)) for end in (world.low, world.high))
        scores: list[dict[int, Score]] = [{} for _ in self.rungs]
        scored: list[dict[int, float]] = [{} for _ in self.rungs]
        errors: list[dict[int, float]] = [{} for _ in self.rungs]
        proposals: list[Params] = []
        baselines: list[Score] = []
        for chunks in self.rungs:
            baselines.append(oracle.score(world.baseline, chunks))
            yield oracle.spent, world.baseline
        known: dict[int, Slopes] = {}  # by number, the baseline's at -1, in the order they came

        def recommended() -> Params:
            last = {n: (here[n], errors[k][n]) for k, here in enumerate(scored) for n in here}
            found = [Found(n, screened=False, difference=d, error=e) for n, (d, e) in last.items()]
            first = most_promising(found, 1)
            return proposals[first[0]] if first else world.baseline

        def evaluate(number: int, level: int) -> None:
            scores[level][number] = score = oracle.score(proposals[number], self.rungs[level])
            difference = score.less(baselines[level])
            scored[level][number] = difference.value
            errors[level][number] = difference.standard_error

        while oracle.spent < budget:
            here = scored[self._level]
            place = min(here, key=lambda number: (here[number], number), default=-1)
            chunks = self.rungs[self._level]
            if place < 0 or here[place] >= 0:
                place, chunks = -1, self.rungs[-1]
            at = world.baseline if place < 0 else proposals[place]
            if place not in known:
                known[place] = self.slopes(oracle, at, min(chunks, BLOCKS))
            so_far = list(known)[: list(known).index(place) + 1]
            origin = Origin.after([known[number] for number in so_far], logs=world.point(at))
            tried = [world.point(one) for one in proposals]
            there = step_downhill(origin, tried, box=(low, high))
            if there is not None:
                proposals.append(world.params(there))
            elif self.hands_over:
                source = KnownMoments(oracle, self.rungs, proposals, baselines, scored)
                question = Question(oracle.seed, len(proposals) + 1)
                sampler = MomentSampler(
                    source, distributions=world.distributions(), question=question, designed=False
                )
                proposals.append(asked(sampler, world.distributions()))
            else:
                rng = np.random.default_rng([oracle.seed, len(proposals)])
                proposals.append(world.params(proposal(origin, tried, box=(low, high), rng=rng)))
            evaluate(len(proposals) - 1, 0)
            yield oracle.spent, recommended()
            for number, level in iter(lambda: self._next(scores, scored, errors), None):
                evaluate(number, level + 1)
                yield oracle.spent, recommended()

    def _next(
        self,
        scores: list[dict[int, Score]],
        differences: list[dict[int, float]],
        errors: list[dict[int, float]],
    ) -> tuple[int, int] | None:
        """Return who goes on from which rung, the highest rungs first; None for nobody.

        As `search.promotion`: a rung's leader and whoever may still be better, the leader alone
        only where the next origin depends on it.
        """
        for level in reversed(range(len(self.rungs) - 1)):
            here = differences[level]
            order = best(here, places(len(here), self.promote))
            hopeful = [n for n in order if here[n] <= WORSE * errors[level][n]]
            rivals = [
                number
                for number in hopeful
                if number != order[0]
                and (less := scores[level][number].less(scores[level][order[0]])).value
                < DECIDED * less.standard_error
            ]
            going = {order[0], *rivals} if order and (rivals or level < self._level) else set()
            for number in hopeful:
                if number in going and number not in differences[level + 1]:
                    return number, level
        return None


@dataclass(frozen=True, eq=False)
class KnownMoments:
    """What the sampler of moments is shown, on one footing as in `search.stored_moments`.

    Arguments:
        oracle: Of the images, all of which are sampled already.
        rungs: Chunks of each.
        proposals: What was tried.
        baselines: Scores of the untouched network, by rung.
        differences: Of each proposal to them, by rung and number.
    """

    oracle: Oracle
    rungs: tuple[int, ...]
    proposals: list[Params]
    baselines: list[Score]
    differences: list[dict[int, float]]

    @property
    def reference(self) -> Reference:
        """Statistics of real features."""
        return self.oracle.world.reference

    def known(self) -> list[Known]:
        """Return the untouched network and every proposal with its highest rung, by number."""
        world = self.oracle.world
        full = self.baselines[-1].corrected
        found = [Known(0, world.point(world.baseline), full, partial(self._seen, None, full))]
        for number, params in enumerate(self.proposals):
            level = max(k for k, here in enumerate(self.differences) if number in here)
            value = full + self.differences[level][number]
            seen = partial(self._seen, (params, self.rungs[level]), value)
            found.append(Known(number + 1, world.point(params), value, seen))
        return found

    def _seen(self, change: tuple[Params, int] | None, value: float) -> Seen:
        """Return the untouched network's moments at the last rung, and what a schedule changes."""
        world = self.oracle.world
        mean, covariance = self._moments(world.baseline, self.rungs[-1])
        if change is None:
            return Seen(world.point(world.baseline), mean, covariance, value)
        ours = self._moments(*change)
        base = self._moments(world.baseline, change[1])
        mean, covariance = mean + ours[0] - base[0], covariance + ours[1] - base[1]
        return Seen(world.point(change[0]), mean, covariance, value)

    def _moments(self, params: Params, chunks: int) -> tuple[Array, Array]:
        rows = self.oracle.features(params, 0, chunks).astype(np.float64)
        return rows.mean(axis=0), np.cov(rows.T)
