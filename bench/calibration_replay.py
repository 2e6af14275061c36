"""One replay of search and confirm on a `Family`, by the rules of `skiptune.search`.

A search is what `skiptune tune` does: Optuna is told the corrected paired difference to the
baseline on the lowest rung, and promotions are those of `search.promotion`. A confirm takes the
candidates that `search.candidates` finds most promising, chooses one on a fresh block A by the
rounds of `search.halving` and tests it on a fresh block B with `search.result.is_win`, at level
alpha / 2^k. A search without candidates spends no block. One that is not confirmed goes on with as
many proposals as before and is confirmed again. Only images and tables are simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.calibration_family import BASELINE, Family
from bench.calibration_scores import Score, scores
from skiptune.objectives.extrapolation import GROUPS
from skiptune.objectives.frechet import VERDICT_PER_FEATURE
from skiptune.objectives.paired import Estimate
from skiptune.search.candidates import Found, most_promising
from skiptune.search.halving import fewest_images, rounds
from skiptune.search.promotion import WORSE, best, places
from skiptune.search.result import Measured, is_win
from skiptune.search.rivals import DECIDED
from skiptune.search.samplers import make_sampler
from skiptune.search.sections import ConfirmSpec, SearchSpec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["Block", "Confirmed", "Rules", "Search", "confirm", "replay"]

Array = NDArray[np.float64]
Point = tuple[float, float]

NAMES = ("first", "second")
# Streams of random numbers of a replay: the search, and blocks A and B of its confirms.
_SEARCH = 0


@dataclass(frozen=True)
class Rules:
    """What a study's spec says, image counts being those of d features.

    Arguments:
        rungs: Images of each.
        promote: Part of a rung that goes on.
        evaluations: Proposals of a search, and of every time that it goes on.
        candidates: Schedules that block A is given, at most.
        images: Of block B, and of the last round of block A.
        choice: By number of candidates, from 1 on: images and candidates kept of every round.
        alpha: Level of all confirms together.
        sampler: A name of `search.samplers`.
        workers: Proposals that are asked for before the first of them is scored.
    """

    rungs: tuple[int, ...]
    promote: float
    evaluations: int
    candidates: int
    images: int
    choice: tuple[tuple[tuple[int, int], ...], ...]
    alpha: float
    sampler: str = "tpe"
    workers: int = 1

    @classmethod
    def of_defaults(cls, dim: int) -> Rules:
        """Return those of a spec that says nothing, as many images per feature as for `fashion`.

        The defaults are made for d = 64, where 500 images are the 8 d of the first rung.
        """
        search, proof = SearchSpec(), ConfirmSpec()

        def scaled(images: int) -> int:
            return GROUPS * round(images / search.rungs[0] * VERDICT_PER_FEATURE * dim / GROUPS)

        fewest = fewest_images(search.rungs, proof.images, screen=False)
        plans = [
            rounds(there, proof.images, fewest=fewest) for there in range(1, proof.candidates + 1)
        ]
        return cls(
            rungs=tuple(scaled(images) for images in search.rungs),
            promote=search.promote,
            evaluations=search.evaluations,
            candidates=proof.candidates,
            images=scaled(proof.images),
            choice=tuple(tuple((scaled(one.images), one.keep) for one in plan) for plan in plans),
            alpha=proof.alpha,
        )


@dataclass(eq=False)
class Block:
    """Consecutive seeds, and what schedules score on them.

    Arguments:
        family: The schedules.
        generator: Of the images.
        images: How many there can be.
    """

    family: Family
    generator: np.random.Generator
    images: int
    _scores: dict[tuple[Point, int], Score] = field(default_factory=dict)

    @cached_property
    def _noise(self) -> Array:
        return self.family.noise(self.generator, self.images)

    def scores(self, points: Sequence[Point], images: int) -> list[Score]:
        """Return what the block's first images say of schedules."""
        new = [p for p in dict.fromkeys(points) if (p, images) not in self._scores]
        if new:
            noise = self._noise[:, :images]
            rows = np.array([self.family.rows(point, noise) for point in new])
            found = scores(rows, self.family.reference)
            self._scores |= {(p, images): one for p, one in zip(new, found, strict=True)}
        return [self._scores[point, images] for point in points]

    def differences(self, points: Sequence[Point], images: int) -> list[Estimate]:
        """Return the corrected paired differences to the baseline."""
        base, *others = self.scores([BASELINE, *points], images)
        return [one.less(base) for one in others]


class Search:
    """A search that can be gone on with.

    Arguments:
        family: What is searched.
        rules: Of the study.
        seed: Of the replay.
    """

    def __init__(self, family: Family, rules: Rules, *, seed: int) -> None:
        import optuna
        from optuna.distributions import FloatDistribution

        generator = np.random.default_rng([seed, _SEARCH])
        self.rules = rules
        self.block = Block(family, generator, rules.rungs[-1])
        self.points: list[Point] = []
        self.found: list[dict[int, Estimate]] = [{} for _ in rules.rungs]
        self._study = optuna.create_study(sampler=make_sampler(rules.sampler, seed=seed))
        self._ranges: dict[str, BaseDistribution] = dict.fromkeys(NAMES, FloatDistribution(-1, 1))
        self._study.add_trial(
            optuna.trial.create_trial(
                params=dict(zip(NAMES, BASELINE, strict=True)),
                distributions=self._ranges,
                value=0.0,
            )
        )

    def go_on(self) -> None:
        """Make a search's worth of proposals, promoting whenever some are scored."""
        rules = self.rules
        for first in range(0, rules.evaluations, rules.workers):
            asked = min(rules.workers, rules.evaluations - first)
            trials = [self._study.ask(self._ranges) for _ in range(asked)]
            numbers = range(len(self.points), len(self.points) + asked)
            self.points += [(t.params["first"], t.params["second"]) for t in trials]
            self._evaluate(numbers, 0)
            for number, trial in zip(numbers, trials, strict=True):
                self._study.tell(trial, self.found[0][number].value)
            while due := self._due():
                self._evaluate(*due)

    def candidates(self) -> list[Point]:
        """Return the schedules that a confirm tests, best first; there may be none."""
        last = {number: one for here in self.found for number, one in here.items()}
        found = [
            Found(number, screened=False, difference=one.value, error=one.standard_error)
            for number, one in last.items()
        ]
        chosen = most_promising(found, self.rules.candidates)
        return [self.points[number] for number in chosen]

    def _evaluate(self, numbers: Sequence[int], level: int) -> None:
        points = [self.points[number] for number in numbers]
        differences = self.block.differences(points, self.rules.rungs[level])
        self.found[level] |= dict(zip(numbers, differences, strict=True))

    def _due(self) -> tuple[list[int], int] | None:
        """Return who goes on to which rung, the highest rungs first; None for nobody."""
        for level in reversed(range(len(self.found) - 1)):
            here, above = self.found[level], self.found[level + 1]
            values = {number: estimate.value for number, estimate in here.items()}
            order = best(values, places(len(values), self.rules.promote))
            hopeful = [n for n in order if here[n].value <= WORSE * here[n].standard_error]
            rivals = [n for n in hopeful if n != order[0] and self._undecided(order[0], n, level)]
            going = {order[0], *rivals} if rivals else set()
            due = [n for n in hopeful if n in going and n not in above]
            if due:
                return due, level + 1
        return None

    def _undecided(self, leader: int, other: int, level: int) -> bool:
        """Return whether a rung has left open which of two is better, as `search.rivals` does."""
        points = [self.points[number] for number in (other, leader)]
        behind, ahead = self.block.scores(points, self.rules.rungs[level])
        difference = behind.less(ahead)
        return difference.value < DECIDED * difference.standard_error


@dataclass(frozen=True)
class Confirmed:
    """What one confirm measured on block B.

    Arguments:
        point: The schedule that block A chose.
        measured: Its row.
        baseline: The baseline's.
        alpha: Level of this confirm.
    """

    point: Point
    measured: Measured
    baseline: Measured
    alpha: float

    def won(self, *, min_gain: float) -> bool:
        """Return what the study's verdict would be."""
        return is_win(self.measured, self.baseline, alpha=self.alpha, min_gain=min_gain)


def confirm(
    family: Family, candidates: list[Point], rules: Rules, *, seed: int, number: int
) -> Confirmed:
    """Choose on block A, test on block B.

    Arguments:
        family: The schedules.
        candidates: Best first.
        rules: Of the study.
        seed: Of the replay.
        number: Of the confirm, from 1 on: each has fresh blocks.
    """
    images = rules.images
    half_a, half_b = (
        Block(family, np.random.default_rng([seed, number, half]), images) for half in (1, 2)
    )
    left = list(candidates)
    for there, keep in rules.choice[len(left) - 1] if len(left) > 1 else ():
        differences = half_a.differences(left, there)
        values = {rank: difference.value for rank, difference in enumerate(differences)}
        left = [left[rank] for rank in best(values, keep)]
    point = left[0]
    (difference,) = half_b.differences([point], images)
    rows = half_b.scores([point, BASELINE], images)
    tuned, base = (Measured("", images, 0.0, one.value, one.standard_error) for one in rows)
    return Confirmed(
        point=point,
        measured=Measured(
            "tuned",
            images,
            0.0,
            tuned.value,
            tuned.standard_error,
            difference.value,
            difference.standard_error,
        ),
        baseline=base,
        alpha=rules.alpha / 2**number,
    )


def replay(
    family: Family, rules: Rules, *, seed: int, confirms: int, min_gain: float = 0.0
) -> list[Confirmed]:
    """Return the confirms of one study, ending with the first win.

    Arguments:
        family: What is searched.
        rules: Of the study.
        seed: Equal seeds, equal replays.
        confirms: How often a user asks; where the search has no candidate, nothing is tested.
        min_gain: What a win has to reach.
    """
    search = Search(family, rules, seed=seed)
    found: list[Confirmed] = []
    for _ in range(confirms):
        search.go_on()
        candidates = search.candidates()
        if not candidates:
            continue
        found.append(confirm(family, candidates, rules, seed=seed, number=len(found) + 1))
        if found[-1].won(min_gain=min_gain):
            break
    return found
