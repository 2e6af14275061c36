"""Whether a search in stages finds more than one that begins with all scales.

    OMP_NUM_THREADS=1 python -m bench.replays_stages

Replays on the per-skip landscape of `fashion` (`bench/data/landscape.npz`, 12 scales), every
evaluation of 500 images. A staged search makes its first proposals in smaller spaces (one scale
for all skips, a line from the deepest to the shallowest, one for each resolution), each asked of
a sampler of its own that is told every evaluation of that space; then the sampler of all scales
goes on with everything that was found. Two ways to begin a stage at the best before:

    nested     the schedules of the smaller space itself; the best before is known to the next
               stage where it lies in its space
    relative   the smaller space holds factors of the best schedule before

Against it the same samplers with all scales from the beginning. All of them get the baseline
first, as every search of skiptune does; TPE without it is the row of `search_efficiency`. For the
sampler of moments the model reads what the oracle's images show of mean and covariance.

Prints the median regret and its quartiles at equal numbers of images, and the share of replays
in which a staged search is ahead of the plain one with the same images. Writes
`bench/results/replays_stages.json` after each strategy, and goes on from there when it is called
again with the same landscape. There is no bound: it is a comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import create_trial

from bench.landscape_file import FILE, read
from bench.record import RESULTS, finish, measured_before, print_table
from bench.replays import (
    CHUNK,
    Oracle,
    Params,
    Score,
    Strategy,
    World,
    median_and_quartiles,
    replayed,
)
from skiptune.objectives.moment_model import Seen
from skiptune.objectives.reference import Reference, load_reference
from skiptune.search.samplers import make_sampler, sampler_arguments
from skiptune.search.surrogate import Known, MomentSampler, Question

__all__ = [
    "BUDGETS",
    "Memory",
    "Moments",
    "Source",
    "Stage",
    "Staged",
    "asked",
    "main",
    "scales_of",
    "strategies",
]

Array = NDArray[np.float64]

BUDGETS = (2_500, 5_000, 10_000, 20_000, 50_000)
_STARTUP = 3  # random proposals of a stage, where its space has two scales or so


@dataclass(frozen=True)
class Stage:
    """Some proposals in a smaller space.

    Arguments:
        kind: ``uniform``, ``linear`` or ``per-resolution``.
        proposals: How many.
    """

    kind: str
    proposals: int


def parameters(kind: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the parameters of a kind of space.

    Arguments:
        kind: As for `Stage`.
        names: Those of all scales, deepest first, e.g. ``skip/16x16_block0``.
    """
    if kind == "uniform":
        return ("all",)
    if kind == "linear":
        return ("bottom", "top")
    return tuple(dict.fromkeys(_resolution(name) for name in names))


def scales_of(kind: str, names: Sequence[str], params: Params) -> Array:
    """Return the scale of every skip that parameters of a smaller space stand for, float64 [p]."""
    if kind == "uniform":
        return np.full(len(names), params["all"])
    if kind == "linear":
        return np.linspace(params["bottom"], params["top"], len(names))
    return np.array([params[_resolution(name)] for name in names])


def _resolution(name: str) -> str:
    return f"resolution/{name.removeprefix('skip/').partition('x')[0]}"


def _within(kind: str, names: Sequence[str], scales: Array) -> dict[str, float] | None:
    """Return the parameters of a schedule in a smaller space; None where it is not in it."""
    own = parameters(kind, names)
    values = {
        "uniform": lambda: [scales[0]],
        "linear": lambda: [scales[0], scales[-1]],
        "per-resolution": lambda: [
            next(s for n, s in zip(names, scales, strict=True) if _resolution(n) == one)
            for one in own
        ],
    }[kind]()
    params = dict(zip(own, (float(value) for value in values), strict=True))
    same = np.allclose(scales_of(kind, names, params), scales, rtol=1e-9)
    return params if same else None


@dataclass(frozen=True)
class Staged:
    """TPE in stages; every trial gets the same images and is told the plain distance.

    Arguments:
        name: What the table calls it.
        stages: Before all scales; none is the plain search.
        relative: Whether a stage's scales are factors of the best schedule before.
        baseline: Whether the untouched network is the first trial.
        chunks: Of every trial.
        sampler: A name of `skiptune.search.samplers`.
    """

    name: str
    stages: tuple[Stage, ...] = ()
    relative: bool = False
    baseline: bool = True
    chunks: int = 2
    sampler: str = "tpe"

    @property
    def images_per_proposal(self) -> int:
        """Return the images of a trial."""
        return CHUNK * self.chunks

    def settings(self) -> dict[str, object]:
        """Return what it is run with."""
        arguments = sampler_arguments(self.sampler, seed=0)
        del arguments["seed"]  # that of the replay
        return {
            "images per trial": CHUNK * self.chunks,
            "stages": [[stage.kind, stage.proposals] for stage in self.stages],
            "relative": self.relative,
            "baseline first": self.baseline,
            "startup of a stage": _STARTUP,
            "sampler": self.sampler,
            **arguments,
        }

    def run(self, oracle: Oracle, budget: int) -> Iterator[tuple[int, Params]]:
        """Yield after each trial."""
        world = oracle.world
        names = world.names
        tried: list[tuple[dict[str, float], float]] = []

        def evaluate(params: dict[str, float]) -> float:
            value = oracle.raw(params, self.chunks)
            tried.append((params, value))
            return value

        def leading() -> Params:
            return min(tried, key=lambda one: one[1])[0]

        if self.baseline or self.stages:
            evaluate(world.baseline)
            yield oracle.spent, leading()
        for place, stage in enumerate(self.stages):
            own: dict[str, BaseDistribution] = {
                name: FloatDistribution(world.low, world.high, log=True)
                for name in parameters(stage.kind, names)
            }
            best = _vector(leading(), names) if self.relative else np.ones(len(names))
            study = _study(make_sampler(self.sampler, seed=_seed(oracle, place), startup=_STARTUP))
            for params, value in tried:
                inner = _within(stage.kind, names, _vector(params, names) / best)
                if inner is not None and _inside(inner, world):
                    study.add_trial(create_trial(params=inner, distributions=own, value=value))
            for _ in range(stage.proposals):
                if oracle.spent >= budget:
                    return
                trial = study.ask(own)
                scales = np.clip(
                    best * scales_of(stage.kind, names, trial.params), world.low, world.high
                )
                study.tell(trial, evaluate(_named(scales, names)))
                yield oracle.spent, leading()
        study = _study(make_sampler(self.sampler, seed=oracle.seed))
        ranges = world.distributions()
        for params, value in tried:
            study.add_trial(create_trial(params=params, distributions=ranges, value=value))
        while oracle.spent < budget:
            trial = study.ask(ranges)
            study.tell(trial, evaluate(dict(trial.params)))
            yield oracle.spent, leading()


@dataclass(frozen=True)
class Moments:
    """The sampler of moments, in stages or not; every evaluation gets the same images.

    Arguments:
        name: What the table calls it.
        stages: Before all scales; none is the plain search. They are nested.
        chunks: Of every evaluation.
    """

    name: str
    stages: tuple[Stage, ...] = ()
    chunks: int = 2

    @property
    def images_per_proposal(self) -> int:
        """Return the images of an evaluation."""
        return CHUNK * self.chunks

    def settings(self) -> dict[str, object]:
        """Return what it is run with."""
        return {
            "images per trial": CHUNK * self.chunks,
            "stages": [[stage.kind, stage.proposals] for stage in self.stages],
            "sampler": "moments",
        }

    def run(self, oracle: Oracle, budget: int) -> Iterator[tuple[int, Params]]:
        """Yield after each evaluation."""
        world = oracle.world
        memory = Memory(oracle, self.chunks)
        memory.evaluate(world.baseline)
        yield oracle.spent, memory.leading()
        for kind, most in [*((s.kind, s.proposals) for s in self.stages), ("", sys.maxsize)]:
            own = parameters(kind, world.names) if kind else world.names
            ranges: dict[str, BaseDistribution] = {
                name: FloatDistribution(world.low, world.high, log=True) for name in own
            }
            made = 0
            while made < most and oracle.spent < budget:
                source = Source(memory, kind, own)
                number = len(source.known()) if kind else len(memory.tried)
                question = Question(oracle.seed, number)
                sampler = MomentSampler(source, distributions=ranges, question=question)
                params = asked(sampler, ranges)
                if kind:
                    params = _named(scales_of(kind, world.names, params), world.names)
                memory.evaluate(params)
                made += 1
                yield oracle.spent, memory.leading()


@dataclass(eq=False)
class Memory:
    """What a replay has evaluated, with its moments."""

    oracle: Oracle
    chunks: int
    tried: list[tuple[Params, Score, Seen]] = field(default_factory=list)

    def evaluate(self, params: Params) -> None:
        """Sample a schedule, and keep what it shows."""
        oracle = self.oracle
        score = oracle.score(params, self.chunks)
        rows = oracle.features(params, 0, self.chunks).astype(np.float64)
        logs = np.log(_vector(params, oracle.world.names))
        seen = Seen(logs, rows.mean(axis=0), np.cov(rows.T), score.corrected)
        self.tried.append((params, score, seen))

    def leading(self) -> Params:
        """Return the schedule of the least corrected distance."""
        return min(self.tried, key=lambda one: one[2].value)[0]


@dataclass(eq=False)
class Source:
    """What the sampler of moments is shown: evaluations that lie in a space."""

    memory: Memory
    kind: str
    names: tuple[str, ...]

    @property
    def reference(self) -> Reference:
        """Statistics of real features."""
        return self.memory.oracle.world.reference

    def known(self) -> list[Known]:
        """Return them by number, the baseline first."""
        found: list[Known] = []
        every = self.memory.oracle.world.names
        for params, _, seen in self.memory.tried:
            logs = seen.logs
            if self.kind:
                inner = _within(self.kind, every, _vector(params, every))
                if inner is None:
                    continue
                logs = np.log(_vector(inner, self.names))
            shown = Seen(logs, seen.mean, seen.covariance, seen.value)
            found.append(Known(len(found), logs, seen.value, partial(_itself, shown)))
        return found


def _itself(seen: Seen) -> Seen:
    return seen


def _vector(params: Params, names: Sequence[str]) -> Array:
    return np.array([params[name] for name in names])


def _named(scales: Array, names: Sequence[str]) -> dict[str, float]:
    return dict(zip(names, (float(scale) for scale in scales), strict=True))


def _inside(params: Mapping[str, float], world: World) -> bool:
    return all(world.low <= value <= world.high for value in params.values())


def _seed(oracle: Oracle, stage: int) -> int:
    return 1000 * (stage + 1) + oracle.seed


def asked(sampler: BaseSampler, ranges: dict[str, BaseDistribution]) -> dict[str, float]:
    """Return what a sampler proposes that reads elsewhere what has been tried."""
    return dict(_study(sampler).ask(ranges).params)


def _study(sampler: BaseSampler) -> optuna.Study:
    return optuna.create_study(storage=optuna.storages.InMemoryStorage(), sampler=sampler)


def strategies() -> list[tuple[Strategy, str]]:
    """Return what is compared, each with the name of what it is compared with."""
    every = (Stage("uniform", 5), Stage("linear", 8), Stage("per-resolution", 10))
    short = (Stage("uniform", 3), Stage("linear", 4), Stage("per-resolution", 5))
    resolutions = (Stage("per-resolution", 10),)
    plain, moments = "TPE at 500, baseline first", "moments"
    return [
        (Staged(plain), plain),
        (Staged("TPE at 500", baseline=False), plain),
        (Staged("nested 5, 8, 10", every), plain),
        (Staged("relative 5, 8, 10", every, relative=True), plain),
        (Staged("nested 3, 4, 5", short), plain),
        (Staged("relative 3, 4, 5", short, relative=True), plain),
        (Staged("per-resolution 10", resolutions), plain),
        (Staged("linear 8", (Stage("linear", 8),)), plain),
        (Moments(moments), moments),
        (Moments("moments, nested 3, 4, 5", short), moments),
    ]


def main() -> int:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replays", type=int, default=25)
    parser.add_argument("--moments-replays", type=int, default=20, help="the same of moments")
    parser.add_argument("--budget", type=int, default=50_000, help="most images of a replay")
    parser.add_argument("--moments-budget", type=int, default=10_000, help="the same of moments")
    parser.add_argument("--only", nargs="*", help="names of strategies")
    parser.add_argument("--file", type=Path, default=FILE, help="a landscape")
    parser.add_argument("--out", type=Path, default=RESULTS / "replays_stages.json")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)

    world = read(options.file)["per-skip"].world("per-skip", load_reference("fashion-train"))
    settings = {
        "landscape": hashlib.sha256(options.file.read_bytes()).hexdigest(),
        "optuna": optuna.__version__,
    }
    measured = measured_before(options.out, settings, "strategies")
    status = 0
    for strategy, against in strategies():
        if options.only and strategy.name not in options.only:
            continue
        # A model takes seconds of a processor where TPE takes milliseconds.
        models = isinstance(strategy, Moments)
        about = {
            **strategy.settings(),
            "replays": options.moments_replays if models else options.replays,
            "budget": options.moments_budget if models else options.budget,
        }
        if measured.get(strategy.name, {}).get("settings") == about:
            continue
        measured[strategy.name] = {"against": against, **_measure(strategy, world, about)}
        for one in measured.values():
            theirs = measured.get(one["against"], {"regrets": {}})["regrets"]
            one["ahead"] = {
                n: _ahead(ours, theirs[n]) for n, ours in one["regrets"].items() if n in theirs
            }
        status = finish(options.out, settings=settings, bounds=[], strategies=measured)
    rows = [(name, *(_cell(one, n) for n in BUDGETS)) for name, one in measured.items()]
    print_table(("median regret [quartiles], ahead", *(f"{n / 1000:g}k" for n in BUDGETS)), rows)
    return status


def _measure(strategy: Strategy, world: World, about: Mapping[str, Any]) -> dict[str, Any]:
    replays, budget = int(about["replays"]), int(about["budget"])
    begun = time.process_time()
    curves = [
        replayed(strategy, world, seed=seed, budget=budget) for seed in range(1, replays + 1)
    ]
    seconds = time.process_time() - begun
    print(f"{strategy.name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    shown = [images for images in BUDGETS if images <= budget]
    regrets = {str(n): [round(curve.at(n), 5) for curve in curves] for n in shown}
    return {
        "settings": dict(about),
        "seconds": seconds,
        "regret_at": {n: median_and_quartiles(values) for n, values in regrets.items()},
        "regrets": regrets,
    }


def _ahead(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the share of replays in which we leave less than they, ties counting half."""
    pairs = list(zip(ours, theirs, strict=False))
    wins = [0.5 if math.isclose(a, b) else float(a < b) for a, b in pairs]
    return sum(wins) / len(wins)


def _cell(one: Mapping[str, Any], images: int) -> str:
    regret = one["regret_at"].get(str(images))
    if regret is None:
        return ""
    text = f"{regret[0]:.2f} [{regret[1]:.2f}, {regret[2]:.2f}]"
    ahead = one["ahead"].get(str(images))
    return text if ahead is None else f"{text} {ahead:.0%}"


if __name__ == "__main__":
    sys.exit(main())
