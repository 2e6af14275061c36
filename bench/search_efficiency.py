"""How many images each strategy needs to come near the best schedule.

    OMP_NUM_THREADS=1 python -m bench.search_efficiency

Replays searches on the measured landscape of `fashion` (`bench/landscape.py`, file
`bench/data/landscape.npz`): one problem of 2 parameters (linear schedules) and one of 12 (a scale
for every skip). Every strategy has the same images, 250 at a time, on common seeds, pays for
what it samples alone, and is scored by the true regret of what it would recommend at that moment:
the part of the gain, from the untouched network to the best schedule of the space, that it
leaves. Regret 1 is the untouched network.

    random, TPE, GP, CMA-ES    Optuna's, every trial at full size: the fewest images at which the
                               paired standard error of the difference to the baseline is a third
                               of 5 % of the gain, so that 5 % regret can be told from none
    TPE at 500, at 2000        the same with smaller trials: on common seeds two schedules' errors
                               are nearly equal, so small trials rank better than that rule says
    Hyperband, halving         TPE with Optuna's pruners, from 500 images to full size
    skiptune                   rungs of 500, 2000 and 8000 that go on from where they stood,
                               corrected paired differences: of a rung's best third the rivals of
                               its leader go on, and the lowest upper bound is recommended
    skiptune, best third       the best third goes on whole, and the best of the highest rung is
                               recommended
    skiptune, plain            as that, by plain distances and ranks
    moments at 500             skiptune's sampler of that name, without rungs
    descent                    skiptune's sampler of that name, rungs of 500 and 2000, or of 500
                               and 1000; slopes are those of the emulated features, and paid for
                               like the sampling of as many images as they take time. Where it has
                               arrived moments propose, or, not handed over, slopes drawn from
                               their errors

Prints images to 5 % regret (median and quartiles over the replays: when a recommendation first
leaves no more, and from when on all do), and the median regret at equal budgets. Writes
`bench/results/search_efficiency.json` after each strategy, and goes on from there when it is
called again with the same landscape and options. There is no bound: it is a comparison.

GP and CMA-ES need scipy and cmaes, which are no dependencies of skiptune; without them their rows
are left out, and the result says why. Where features bend more sharply than the emulator knows,
real slopes are worse guides than its own: `bench/live_search.py` has real ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from bench.landscape_file import FILE, RANGES, read
from bench.record import RESULTS, finish, measured_before, print_table
from bench.replays import CHUNK, Curve, Oracle, Strategy, World, median_and_quartiles, replayed
from bench.replays_descent import Descent
from bench.replays_promotion import Promoting
from bench.replays_stages import Moments
from bench.replays_strategies import FullSize, Halving, Ours, missing
from skiptune.objectives.reference import load_reference

__all__ = ["BUDGETS", "REGRET", "full_size", "main", "strategies"]

REGRET = 0.05
BUDGETS = (5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000)
SLOW = ("gp", "moments")  # samplers whose proposals take tenths of a second
SHORT = (*SLOW, "descent")  # and one that has arrived long before a hundred
LARGEST = 400  # chunks of a full-size trial at most: 100,000 images


def full_size(world: World) -> int:
    """Return the chunks of a trial whose standard error is a third of what 5 % regret amounts to.

    The error is that of the optimum's paired difference to the baseline, which falls with the
    root of the images; it is taken from 8000 of them.
    """
    oracle, chunks = Oracle(world, seed=0), 32
    baseline = oracle.score(world.baseline, chunks)
    error = oracle.score(world.optimum, chunks).less(baseline).standard_error
    needed = math.ceil(chunks * (error / (REGRET * world.gain / 3)) ** 2)
    return min(max(needed, 2), LARGEST)


def strategies(full: int) -> list[Strategy]:
    """Return what is compared, full-size trials having so many chunks."""
    return [
        Promoting("skiptune", rule="undecided", order="upper bound"),
        Ours("skiptune, best third"),
        Halving("Hyperband", "hyperband", 2, max(full, 6)),
        Halving("successive halving", "successive-halving", 2, max(full, 6)),
        FullSize("TPE at 500", "tpe", 2),
        FullSize("TPE", "tpe", full),
        FullSize("random", "random", full),
        FullSize("CMA-ES", "cmaes", full),
        FullSize("TPE at 2000", "tpe", 8),
        Ours("skiptune, plain", paired=False),
        Descent("descent"),
        Descent("descent, 500 and 1000", rungs=(2, 4)),
        Descent("descent, not handed over", hands_over=False),
        Moments("moments at 500"),
        FullSize("GP", "gp", full),
    ]


def main() -> int:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replays", type=int, default=50)
    parser.add_argument("--gp-replays", type=int, default=20, help="of GP and moments")
    parser.add_argument("--budget", type=int, default=2_000_000, help="most images of a replay")
    parser.add_argument("--trials", type=int, default=100, help="most first rungs in a budget")
    parser.add_argument("--gp-trials", type=int, default=40, help="of GP, moments, descent")
    parser.add_argument("--file", type=Path, default=FILE, help="a landscape")
    parser.add_argument("--problems", nargs="*", default=list(RANGES), choices=list(RANGES))
    parser.add_argument("--only", nargs="*", help="names of strategies")
    parser.add_argument("--out", type=Path, default=RESULTS / "search_efficiency.json")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.captureWarnings(True)
    warnings.simplefilter("ignore")  # Optuna's, of experimental arguments

    reference = load_reference("fashion-train")
    settings = {
        "replays": options.replays,
        "gp_replays": options.gp_replays,
        "budget": options.budget,
        "trials": options.trials,
        "gp_trials": options.gp_trials,
        "regret": REGRET,
        "landscape": hashlib.sha256(options.file.read_bytes()).hexdigest(),
        "optuna": optuna.__version__,
    }
    before = measured_before(options.out, settings, "problems")
    problems: dict[str, Any] = dict(before)
    status = 0
    spaces = read(options.file)
    for kind in options.problems:
        world = spaces[kind].world(kind, reference)
        full = full_size(world)
        print(
            f"\n{kind}: FD {world.baseline_distance:.2f} untouched, "
            f"{world.baseline_distance - world.gain:.2f} at best; full size {CHUNK * full} images"
        )
        found: dict[str, Any] = dict(before.get(kind, {}).get("strategies", {}))
        problems[kind] = {
            "baseline": world.baseline_distance,
            "gain": world.gain,
            "optimum": world.optimum,
            "full_size": CHUNK * full,
            "strategies": found,
        }
        for strategy in strategies(full):
            if options.only and strategy.name not in options.only:
                continue
            there = found.get(strategy.name, {"left_out": ""})
            same = there.get("settings") == json.loads(json.dumps(strategy.settings()))
            if "left_out" in there or not same:
                found[strategy.name] = _measure(strategy, world, options)
            status = finish(options.out, settings=settings, bounds=[], problems=problems)
        _print(found)
    return status


def _measure(strategy: Strategy, world: World, options: argparse.Namespace) -> dict[str, Any]:
    settings = strategy.settings()
    lacking = missing(str(settings["sampler"]))
    if lacking is not None:
        print(f"{strategy.name}: left out, {lacking} is not installed", file=sys.stderr)
        return {"settings": settings, "left_out": f"{lacking} is not installed"}
    replays = options.gp_replays if settings["sampler"] in SLOW else options.replays
    # What a model costs grows with its trials, so their number is bounded beside the images.
    trials = options.gp_trials if settings["sampler"] in SHORT else options.trials
    budget = min(options.budget, trials * strategy.images_per_proposal)
    begun = time.process_time()
    curves = [
        replayed(strategy, world, seed=seed, budget=budget) for seed in range(1, replays + 1)
    ]
    seconds = time.process_time() - begun
    print(f"{strategy.name}: {replays} replays, {seconds:.0f} s", file=sys.stderr, flush=True)
    return {"settings": settings, "budget": budget, "seconds": seconds, **_summary(curves, budget)}


def _summary(curves: Sequence[Curve], budget: int) -> dict[str, Any]:
    firsts = [curve.first(REGRET) for curve in curves]
    settled = [curve.settled(REGRET) for curve in curves]
    at = {
        str(images): median_and_quartiles([curve.at(images) for curve in curves])
        for images in BUDGETS
        if images <= budget
    }
    return {
        "images_to_regret": [_finite(value) for value in median_and_quartiles(firsts)],
        "images_settled": [_finite(value) for value in median_and_quartiles(settled)],
        "reached": sum(math.isfinite(value) for value in firsts) / len(firsts),
        "regret_at": at,
        "firsts": [_finite(value) for value in firsts],
    }


def _finite(value: float) -> float | None:
    """Return a number, or None for what JSON cannot say."""
    return value if math.isfinite(value) else None


def _print(found: dict[str, Any]) -> None:
    largest = max(one.get("budget", 0) for one in found.values())
    shown = [images for images in BUDGETS if images <= largest]
    rows = []
    for name, one in found.items():
        if "left_out" in one:
            rows.append((name, one["left_out"], *[""] * (len(shown) + 2)))
            continue
        median, low, high = (_images(value) for value in one["images_to_regret"])
        regrets = [one["regret_at"].get(str(images)) for images in shown]
        rows.append(
            (
                name,
                f"{median} [{low}, {high}]",
                _images(one["images_settled"][0]),
                f"{one['reached']:.0%}",
                *("" if regret is None else f"{regret[0]:.2f}" for regret in regrets),
            )
        )
    head = ("strategy", "to 5 % regret", "for good", "reached")
    print_table((*head, *(_images(images) for images in shown)), rows)


def _images(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "never"
    return f"{value / 1000:,.0f}k" if value >= 10_000 else f"{value / 1000:.1f}k"


if __name__ == "__main__":
    sys.exit(main())
