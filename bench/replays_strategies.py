"""The strategies that `bench/search_efficiency.py` compares, each with its settings."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from bench.replays import CHUNK, Oracle, Params, Score, World
from skiptune.search.promotion import WORSE, best, places
from skiptune.search.samplers import make_sampler, sampler_arguments

__all__ = ["FullSize", "Halving", "Ours", "missing"]

# The packages that Optuna imports for a sampler and does not bring along.
NEEDS = {"gp": "scipy", "cmaes": "cmaes"}


def missing(sampler: str) -> str | None:
    """Return the package that a sampler needs and this environment lacks, if there is one."""
    package = NEEDS.get(sampler)
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    return package


@dataclass(frozen=True)
class FullSize:
    """One of Optuna's samplers; every trial gets the same number of images.

    It is told the plain distance, on the same seeds for all trials, and recommends the trial of
    the lowest value: what a script around Optuna does.

    Arguments:
        name: What the table calls it.
        sampler: A name of `skiptune.search.samplers`, or `cmaes`.
        chunks: Of every trial.
    """

    name: str
    sampler: str
    chunks: int

    @property
    def images_per_proposal(self) -> int:
        """Return the images of a trial."""
        return CHUNK * self.chunks

    def settings(self) -> dict[str, object]:
        """Return what it is run with."""
        return {"images per trial": CHUNK * self.chunks, **_sampler_settings(self.sampler)}

    def run(self, oracle: Oracle, budget: int) -> Iterator[tuple[int, Params]]:
        """Yield after each trial."""
        study = _study(_sampler(self.sampler, oracle.seed))
        distributions = oracle.world.distributions()
        while oracle.spent < budget:
            trial = study.ask(distributions)
            study.tell(trial, oracle.raw(trial.params, self.chunks))
            yield oracle.spent, study.best_trial.params


@dataclass(frozen=True)
class Halving:
    """TPE with one of Optuna's pruners that stop trials at growing numbers of images.

    Images are reported at the pruner's own rungs alone; a trial that is pruned has paid for what
    was sampled until then. It recommends the best of the trials that were completed, as
    `study.best_trial` does.

    Arguments:
        name: What the table calls it.
        pruner: `hyperband` or `successive-halving`.
        least: Chunks of the first rung.
        most: Chunks of a whole trial.
        factor: Growth from rung to rung.
    """

    name: str
    pruner: str
    least: int
    most: int
    factor: int = 3

    @property
    def images_per_proposal(self) -> int:
        """Return what a trial costs where each rung's best part goes on."""
        steps = [b - a for a, b in pairwise([0, *self.rungs])]
        return round(CHUNK * sum(step * float(self.factor) ** -k for k, step in enumerate(steps)))

    def settings(self) -> dict[str, object]:
        """Return what it is run with."""
        return {**asdict(self), "rungs": self.rungs, **_sampler_settings("tpe")}

    @property
    def rungs(self) -> list[int]:
        """Chunks at which a trial may be pruned, and those of a whole one."""
        rungs = []
        chunks = self.least
        while chunks < self.most:
            rungs.append(chunks)
            chunks *= self.factor
        return [*rungs, self.most]

    def run(self, oracle: Oracle, budget: int) -> Iterator[tuple[int, Params]]:
        """Yield after each trial that was completed."""
        study = _study(_sampler("tpe", oracle.seed), self._pruner(), name=f"replay-{oracle.seed}")
        distributions = oracle.world.distributions()
        while oracle.spent < budget:
            trial = study.ask(distributions)
            value = 0.0
            for chunks in self.rungs:
                value = oracle.raw(trial.params, chunks)
                trial.report(value, step=chunks)
                if chunks < self.most and trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                study.tell(trial, value)
            if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                yield oracle.spent, study.best_trial.params

    def _pruner(self) -> BasePruner:
        if self.pruner == "hyperband":
            return HyperbandPruner(
                min_resource=self.least, max_resource=self.most, reduction_factor=self.factor
            )
        return SuccessiveHalvingPruner(
            min_resource=self.least, reduction_factor=self.factor, min_early_stopping_rate=0
        )


@dataclass(frozen=True)
class Ours:
    """skiptune's search: rungs that go on from where they stood, paired corrected differences.

    The baseline comes first. TPE is asked by what the lowest rung said; the best part of each
    rung goes on, if it is not worse than the baseline by 1.96 paired standard errors. It
    recommends the best of the highest rung: the first candidate of a confirm.

    Arguments:
        name: What the table calls it.
        rungs: Chunks of each.
        promote: Part of a rung that goes on.
        paired: Whether Optuna and promotions go by corrected paired differences; if not, by plain
            distances, and the comparison with the baseline is left out.
        sampler: A name of `skiptune.search.samplers`.
    """

    name: str = "skiptune"
    rungs: tuple[int, ...] = (2, 8, 32)
    promote: float = 1 / 3
    paired: bool = True
    sampler: str = "tpe"

    @property
    def images_per_proposal(self) -> int:
        """Return what a proposal costs where each rung's best part goes on."""
        steps = [b - a for a, b in pairwise([0, *self.rungs])]
        return round(CHUNK * sum(step * self.promote**k for k, step in enumerate(steps)))

    def settings(self) -> dict[str, object]:
        """Return what it is run with."""
        rungs = [CHUNK * chunks for chunks in self.rungs]
        plain = {"rungs": rungs, "promote": self.promote, "paired": self.paired}
        return {**plain, **_sampler_settings(self.sampler)}

    def run(self, oracle: Oracle, budget: int) -> Iterator[tuple[int, Params]]:
        """Yield whenever an evaluation is scored."""
        world = oracle.world
        distributions = world.distributions()
        study = _study(_sampler(self.sampler, oracle.seed))
        baselines: dict[int, Score] = {}
        scored: list[dict[int, float]] = [{} for _ in self.rungs]
        errors: list[dict[int, float]] = [{} for _ in self.rungs]
        proposals: list[Params] = []

        def evaluate(number: int, level: int) -> None:
            chunks, params = self.rungs[level], proposals[number]
            if not self.paired:
                scored[level][number] = oracle.raw(params, chunks)
                return
            if level not in baselines:
                baselines[level] = oracle.score(world.baseline, chunks)
            difference = oracle.score(params, chunks).less(baselines[level])
            scored[level][number] = difference.value
            errors[level][number] = difference.standard_error

        # The baseline is Optuna's first trial, with the difference 0 to itself.
        first = 0.0 if self.paired else oracle.raw(world.baseline, self.rungs[0])
        study.add_trial(_finished(world, distributions, world.baseline, first))
        while oracle.spent < budget:
            asked = study.ask(distributions)
            proposals.append(dict(asked.params))
            evaluate(len(proposals) - 1, 0)
            study.tell(asked, scored[0][len(proposals) - 1])
            yield oracle.spent, proposals[self._recommended(scored)]
            for number, level in iter(lambda: self._due(scored, errors), None):
                evaluate(number, level + 1)
                yield oracle.spent, proposals[self._recommended(scored)]

    def _due(
        self, scored: list[dict[int, float]], errors: list[dict[int, float]]
    ) -> tuple[int, int] | None:
        """Return who goes on from which rung, the highest rungs first; None for nobody."""
        for level in reversed(range(len(self.rungs) - 1)):
            here = scored[level]
            for number in best(here, places(len(here), self.promote)):
                worse = self.paired and here[number] > WORSE * errors[level][number]
                if number not in scored[level + 1] and not worse:
                    return number, level
        return None

    def _recommended(self, scored: list[dict[int, float]]) -> int:
        highest = next(rung for rung in reversed(scored) if rung)
        return best(highest, 1)[0]


def _study(
    sampler: BaseSampler, pruner: BasePruner | None = None, *, name: str | None = None
) -> optuna.Study:
    return optuna.create_study(
        storage=optuna.storages.InMemoryStorage(),
        sampler=sampler,
        pruner=pruner or optuna.pruners.NopPruner(),
        study_name=name,
    )


def _sampler(name: str, seed: int) -> BaseSampler:
    if name != "cmaes":
        return make_sampler(name, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


def _sampler_settings(name: str) -> dict[str, Any]:
    if name == "cmaes":
        return {"sampler": name, "x0": "centre of the log range", "sigma0": "Optuna's default"}
    arguments = sampler_arguments(name, seed=0)
    del arguments["seed"]  # that of the replay
    return {"sampler": name, **arguments}


def _finished(
    world: World, distributions: dict[str, BaseDistribution], params: Params, value: float
) -> optuna.trial.FrozenTrial:
    return create_trial(params=dict(params), distributions=distributions, value=value)
