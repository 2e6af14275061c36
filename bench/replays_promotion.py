"""Who is promoted, and who is recommended: two rules of skiptune's, each on and off, replayed.

    OMP_NUM_THREADS=1 python -m bench.replays_promotion

Replays of `bench/search_efficiency.py` (same landscape, same seeds) with skiptune's rungs of 500,
2000 and 8000 images and TPE. What differs is who goes on from a rung, and which evaluation is
recommended when some rest on more images than others (the baseline is paid in whole before all
else, as a study does it, also where nobody goes on):

    thirds       the best third of a rung goes on
    undecided    of the best third those whose paired difference to the rung's leader is within
                 two standard errors
    by min_gain  those that may, within two standard errors, be better than the leader by 1 % of
                 the baseline's distance: what skiptune does
    none         nobody goes on: every schedule has 500 images

    highest rung      the lowest difference to the baseline at the highest rung
    upper bound       the lowest upper end of a 95 % interval of the difference, at any rung: what
                      skiptune does
    lowest            the lowest difference, at any rung

Prints images to 5 % regret and the median regret at equal budgets. Writes
`bench/results/replays_promotion.json` after each strategy, and goes on from there when it is
called again with the same options and landscape. There is no bound: it is a comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna

from bench.landscape_file import FILE, RANGES, read
from bench.record import RESULTS, finish, measured_before, print_table
from bench.replays import Oracle, Params, Score, World, median_and_quartiles, replayed
from bench.replays_strategies import Ours
from skiptune.objectives.reference import load_reference
from skiptune.search.promotion import WORSE, best, places

__all__ = ["Order", "Promoting", "Rule", "main"]

Rule = Literal["thirds", "undecided", "by min_gain", "none"]
Order = Literal["highest rung", "upper bound", "lowest"]

UNDECIDED = 2.0
BOUND = 1.96
MIN_GAIN = 0.01
REGRET = 0.05
BUDGETS = (5_000, 10_000, 20_000, 50_000, 100_000)


@dataclass(frozen=True)
class Promoting(Ours):
    """skiptune's search with another rule of promotion, and another of recommending.

    Arguments:
        rule: Who goes on from a rung.
        order: What is recommended.
    """

    rule: Rule = "thirds"
    order: Order = "highest rung"
    _seen: dict[tuple[int, int], Score] = field(default_factory=dict, compare=False, repr=False)

    def settings(self) -> dict[str, object]:
        """Return what it is run with."""
        return {**super().settings(), "rule": self.rule, "order": self.order}

    def run(self, oracle: Oracle, budget: int) -> Iterator[tuple[int, Params]]:
        """Yield whenever an evaluation is scored."""
        world = oracle.world
        distributions = world.distributions()
        study = optuna.create_study(sampler=_sampler(self, oracle.seed))
        study.add_trial(
            optuna.trial.create_trial(
                params=world.baseline, distributions=distributions, value=0.0
            )
        )
        baselines = [oracle.score(world.baseline, chunks) for chunks in self.rungs]
        least = MIN_GAIN * baselines[-1].corrected if self.rule == "by min_gain" else 0.0
        found: list[dict[int, Score]] = [{} for _ in self.rungs]
        differences: list[dict[int, float]] = [{} for _ in self.rungs]
        errors: list[dict[int, float]] = [{} for _ in self.rungs]
        proposals: list[Params] = []

        def evaluate(number: int, level: int) -> None:
            score = oracle.score(proposals[number], self.rungs[level])
            less = score.less(baselines[level])
            found[level][number] = score
            differences[level][number] = less.value
            errors[level][number] = less.standard_error

        while oracle.spent < budget:
            asked = study.ask(distributions)
            proposals.append(dict(asked.params))
            evaluate(len(proposals) - 1, 0)
            study.tell(asked, differences[0][len(proposals) - 1])
            yield oracle.spent, proposals[self._recommend(differences, errors)]
            while due := self._next(differences, errors, found, least):
                evaluate(due[0], due[1] + 1)
                yield oracle.spent, proposals[self._recommend(differences, errors)]

    def _next(
        self,
        differences: list[dict[int, float]],
        errors: list[dict[int, float]],
        found: list[dict[int, Score]],
        least: float,
    ) -> tuple[int, int] | None:
        """Return who goes on from which rung, the highest rungs first; None for nobody."""
        if self.rule == "none":
            return None
        for level in reversed(range(len(self.rungs) - 1)):
            here = differences[level]
            order = best(here, places(len(here), self.promote))
            order = tuple(n for n in order if here[n] <= WORSE * errors[level][n])
            if self.rule != "thirds" and order:
                leader = found[level][order[0]]
                rivals = [
                    number
                    for number in order[1:]
                    if (less := found[level][number].less(leader)).value
                    - UNDECIDED * less.standard_error
                    < -least
                ]
                order = (order[0], *rivals) if rivals else ()
            for number in order:
                if number not in differences[level + 1]:
                    return number, level
        return None

    def _recommend(
        self, differences: list[dict[int, float]], errors: list[dict[int, float]]
    ) -> int:
        if self.order == "highest rung":
            highest = next(rung for rung in reversed(differences) if rung)
            return best(highest, 1)[0]
        share = BOUND if self.order == "upper bound" else 0.0
        values: dict[int, float] = {}
        for level, here in enumerate(differences):
            for number, value in here.items():
                values[number] = value + share * errors[level][number]
        return best(values, 1)[0]


def _sampler(strategy: Ours, seed: int) -> optuna.samplers.BaseSampler:
    from skiptune.search.samplers import make_sampler

    return make_sampler(strategy.sampler, seed=seed)


def strategies() -> list[Promoting]:
    """Return what is compared."""
    pairs: list[tuple[Rule, Order]] = [
        ("thirds", "highest rung"),
        ("thirds", "upper bound"),
        ("undecided", "highest rung"),
        ("undecided", "upper bound"),
        ("by min_gain", "highest rung"),
        ("by min_gain", "upper bound"),
        ("none", "lowest"),
    ]
    return [Promoting(f"{rule}, {order}", rule=rule, order=order) for rule, order in pairs]


def main() -> int:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replays", type=int, default=20)
    parser.add_argument("--budget", type=int, default=100_000, help="images of a replay")
    parser.add_argument("--problems", nargs="*", default=list(RANGES), choices=list(RANGES))
    parser.add_argument("--only", nargs="*", help="names of strategies")
    parser.add_argument("--out", type=Path, default=RESULTS / "replays_promotion.json")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.captureWarnings(True)
    warnings.simplefilter("ignore")  # Optuna's, of experimental arguments
    reference = load_reference("fashion-train")
    spaces = read(FILE)
    status = 0
    settings = {
        "replays": options.replays,
        "budget": options.budget,
        "regret": REGRET,
        "undecided": UNDECIDED,
        "min_gain": MIN_GAIN,
        "landscape": hashlib.sha256(FILE.read_bytes()).hexdigest(),
    }
    problems = measured_before(options.out, settings, "problems")
    for kind in options.problems:
        world = spaces[kind].world(kind, reference)
        found = problems.setdefault(kind, {})
        for strategy in strategies():
            if strategy.name not in found and strategy.name in (options.only or [strategy.name]):
                found[strategy.name] = _measured(strategy, world, options)
                status = finish(options.out, settings=settings, bounds=[], problems=problems)
        _print(kind, found)
    return status


def _measured(strategy: Promoting, world: World, options: argparse.Namespace) -> dict[str, Any]:
    begun = time.process_time()
    curves = [
        replayed(strategy, world, seed=seed, budget=options.budget)
        for seed in range(1, options.replays + 1)
    ]
    seconds = time.process_time() - begun
    print(f"{world.name}: {strategy.name}, {seconds:.0f} s", file=sys.stderr, flush=True)
    firsts = [curve.first(REGRET) for curve in curves]
    return {
        "settings": strategy.settings(),
        "seconds": seconds,
        "images_to_regret": [_finite(value) for value in median_and_quartiles(firsts)],
        "reached": sum(map(math.isfinite, firsts)) / len(firsts),
        "regret_at": {
            str(images): median_and_quartiles([curve.at(images) for curve in curves])
            for images in BUDGETS
            if images <= options.budget
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print(kind: str, found: dict[str, Any]) -> None:
    rows = []
    for name, one in found.items():
        median, low, high = (
            "never" if value is None else f"{value / 1000:.1f}k"
            for value in one["images_to_regret"]
        )
        regrets = (f"{one['regret_at'][key][0]:.3f}" for key in one["regret_at"])
        rows.append((name, f"{median} [{low}, {high}]", f"{one['reached']:.0%}", *regrets))
    budgets = next(iter(found.values()))["regret_at"] if found else ()
    heads = (f"{int(images) // 1000}k" for images in budgets)
    print_table((kind, "to 5 % regret", "reached", *heads), rows)


if __name__ == "__main__":
    sys.exit(main())
