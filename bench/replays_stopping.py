"""Whether the sampler of moments knows when there is nothing left to find.

    OMP_NUM_THREADS=1 python -m bench.replays_stopping

Replays of `moments` on the per-skip landscape of `fashion` (`bench/replays_stages.py`), every
evaluation of 500 images. Before each proposal the rule of `search.patience: auto` is asked: it
ends the search where the least predicted distance in the box of the next proposal lies below the
best schedule's by less than an eighth of the paired standard error that a confirm of 2000 images
will have, twice in a row. Beside it the same at half of that error, once; and a patience of so
many evaluations without an improvement by half of it.

Prints after how many evaluations each rule ends the search, the regret there, and how much more
that is than the same replay leaves with all its evaluations. A rule is worth having where it
spends fewer evaluations and leaves hardly more. Bound: the median regret that `auto` gives away
is at most 0.02.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

from bench.landscape_file import FILE, read
from bench.record import RESULTS, Bound, finish, print_table
from bench.replays import CHUNK, Oracle, World, median_and_quartiles
from bench.replays_stages import Memory, Source
from skiptune.objectives.reference import load_reference
from skiptune.search.stopping_rule import NEXT, PROVABLE, since_improved
from skiptune.search.surrogate import MomentSampler, Question, expected_improvement

__all__ = ["Step", "main", "replay"]

CHUNKS = 2  # of an evaluation
PATIENCE = (5, 10, 15)


class Step(tuple[float, float | None, float, float]):
    """What is known after an evaluation: regret, expected, least gain, difference."""


def replay(world: World, *, seed: int, evaluations: int, confirm: int) -> list[Step]:
    """Run one search and return what each of its evaluations left, the baseline's first.

    Arguments:
        world: The problem.
        seed: Of the replay.
        evaluations: Proposals.
        confirm: Images of a block of the confirm.
    """
    memory = Memory(Oracle(world, seed), CHUNKS)
    source = Source(memory, "", world.names)
    low, high = (np.full(len(world.names), math.log(end)) for end in (world.low, world.high))
    ranges: dict[str, BaseDistribution] = {
        name: FloatDistribution(world.low, world.high, log=True) for name in world.names
    }
    memory.evaluate(world.baseline)
    steps: list[Step] = []
    for number in range(1, evaluations + 2):
        leader = min(memory.tried, key=lambda one: one[2].value)
        estimate = leader[1].less(memory.tried[0][1])
        least = PROVABLE * estimate.standard_error * math.sqrt(CHUNK * CHUNKS / confirm)
        expected = expected_improvement(source, number, box=(low, high))
        difference = memory.tried[-1][2].value - memory.tried[0][2].value
        steps.append(Step((world.regret(leader[0]), expected, least, difference)))
        if number > evaluations:
            break
        sampler = MomentSampler(source, distributions=ranges, question=Question(seed, number))
        study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), sampler=sampler)
        memory.evaluate(dict(study.ask(ranges).params))
    return steps


def ended(steps: Sequence[Step], rule: Callable[[Sequence[Step]], bool]) -> int:
    """Return after how many evaluations a rule ends a replay; all of them where it never does."""
    for count in range(1, len(steps)):
        if rule(steps[: count + 1]):
            return count
    return len(steps) - 1


def _auto(steps: Sequence[Step]) -> bool:
    return all(_is_below(expected, NEXT * steps[-1][2]) for _, expected, _, _ in steps[-2:])


def _hasty(steps: Sequence[Step]) -> bool:
    return _is_below(steps[-1][1], steps[-1][2])


def _is_below(expected: float | None, least: float) -> bool:
    return expected is not None and expected < least


def _patient(most: int) -> Callable[[Sequence[Step]], bool]:
    def rule(steps: Sequence[Step]) -> bool:
        differences = [step[3] for step in steps[1:]]
        return since_improved(differences, least=steps[-1][2]) >= most

    return rule


def _before(path: Path, settings: dict[str, Any]) -> list[list[Step]]:
    """Return the replays of a result with the same settings."""
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["settings"] != settings:
        return []
    return [[Step(step) for step in run] for run in found["steps"]]


def main() -> int:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replays", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--confirm", type=int, default=2000, help="images of a block")
    parser.add_argument("--file", type=Path, default=FILE, help="a landscape")
    parser.add_argument("--out", type=Path, default=RESULTS / "replays_stopping.json")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    world = read(options.file)["per-skip"].world("per-skip", load_reference("fashion-train"))
    settings = {
        "evaluations": options.evaluations,
        "confirm": options.confirm,
        "landscape": hashlib.sha256(options.file.read_bytes()).hexdigest(),
    }
    runs = _before(options.out, settings)[: options.replays]
    for seed in range(len(runs) + 1, options.replays + 1):
        runs.append(
            replay(world, seed=seed, evaluations=options.evaluations, confirm=options.confirm)
        )
        print(f"replay {seed}", file=sys.stderr, flush=True)
    rules: dict[str, Callable[[Sequence[Step]], bool]] = {"auto": _auto, "at half, once": _hasty}
    rules |= {f"patience {most}": _patient(most) for most in PATIENCE}
    rules["never"] = lambda steps: False
    measured: dict[str, Any] = {}
    rows = []
    for name, rule in rules.items():
        counts = [ended(run, rule) for run in runs]
        left = [run[count][0] for run, count in zip(runs, counts, strict=True)]
        whole = [run[-1][0] for run in runs]
        lost = [a - b for a, b in zip(left, whole, strict=True)]
        measured[name] = {"evaluations": counts, "regret": left, "lost": lost}
        cells = [median_and_quartiles(values) for values in (counts, left, lost)]
        rows.append((name, *("{:.3g} [{:.3g}, {:.3g}]".format(*cell) for cell in cells)))
    print_table(("rule", "evaluations", "regret", "lost by stopping"), rows)
    auto = median_and_quartiles(measured["auto"]["lost"])[0]
    return finish(
        options.out,
        settings=settings,
        bounds=[Bound("median regret that auto gives away", auto, 0.02)],
        rules=measured,
        steps=[[list(step) for step in run] for run in runs],
    )


if __name__ == "__main__":
    sys.exit(main())
