"""How often a study claims a gain that is none, and how often it finds one that is there.

    OMP_NUM_THREADS=1 python -m bench.calibration

Replays whole studies, search and confirm together, on schedules whose distance is known exactly
(`calibration_family`), by the rules of `skiptune.search` and with the counts of a spec that says
nothing, scaled to d features (`calibration_replay`). 2000 replays of each:

    null, equal spread       every schedule is as far as the baseline, with other images
    null, unequal spread     the same, and the baseline spreads most, so that the bias in N of
                             plain distances favours every other schedule
    planted 1, 2, 4          a bowl whose lowest place lies so many standard errors of the final
                             paired difference below the baseline, at unequal spread

Nulls are searched at random with all proposals under way at once, as there is nothing to find,
and confirmed up to `--confirms` times, the search going on in between, as a user may who hopes
for more. Planted optima are searched by TPE with 8 proposals under way, and confirmed once.

Bounds: of the nulls' studies at most 6 % ever claim a win; of those with an optimum of 4 standard
errors at least 90 % do, with `min_gain` 0. A schedule's true gain is known: claims of one that
is none are counted in the planted conditions too.

Replays go round the conditions, `--batch` at a time. `bench/results/calibration.json` is written
after each batch, and gone on from when the program is called again with the same rules.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
import optuna

from bench.calibration_family import OPTIMUM, Family
from bench.calibration_replay import Block, Rules, replay
from bench.record import RESULTS, Bound, finish, measured_before, print_table
from skiptune.search.candidates import HOPELESS, most_promising
from skiptune.search.halving import fewest_images, rounds
from skiptune.search.promotion import WORSE, best, places
from skiptune.search.result import Measured, is_win
from skiptune.search.rivals import DECIDED

__all__ = ["Condition", "Counts", "conditions", "main", "measure", "wilson"]

FALSE_WINS = 0.06
POWER = 0.9
MIN_GAINS = (0.0, 0.01)

DIM = 16

DISTANCE = 4.0
"""Of the baseline: the paired standard error is then about 1 % of it, as for `fashion`."""

SPREAD = 0.15
"""The baseline's features vary by so much more than the reference's, in every direction."""


@dataclass(frozen=True, eq=False)
class Condition:
    """What is replayed.

    Arguments:
        name: Of the table's row.
        family: The schedules.
        rules: Of the studies.
        confirms: At most, of each study.
        planted: Gain of the optimum in final paired standard errors; 0 for a null.
    """

    name: str
    family: Family
    rules: Rules
    confirms: int
    planted: float = 0.0


def conditions(rules: Rules, *, dim: int, confirms: int) -> list[Condition]:
    """Return the nulls and the planted optima."""
    at_random = replace(rules, sampler="random", workers=rules.evaluations)
    by_model = replace(rules, workers=8)
    nulls = [
        Condition(name, Family(dim, DISTANCE, spread), at_random, confirms)
        for name, spread in (("null, equal spread", 0.0), ("null, unequal spread", SPREAD))
    ]
    flat = Family(dim, DISTANCE, SPREAD)
    error = final_error(flat, rules)
    planted = [
        Condition(f"planted {times:g}", replace(flat, gain=times * error), by_model, 1, times)
        for times in (1.0, 2.0, 4.0)
    ]
    return nulls + planted


def final_error(family: Family, rules: Rules, *, blocks: int = 200) -> float:
    """Return the mean standard error of the optimum's paired difference on a block B."""
    found = [
        Block(family, np.random.default_rng([8, seed]), rules.images)
        .differences([OPTIMUM], rules.images)[0]
        .standard_error
        for seed in range(blocks)
    ]
    return fmean(found)


def main() -> int:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replays", type=int, default=2000, help="of each condition")
    parser.add_argument("--batch", type=int, default=50, help="replays between two writings")
    parser.add_argument("--dim", type=int, default=DIM, help="features")
    parser.add_argument("--confirms", type=int, default=2, help="of a null's study, at most")
    parser.add_argument("--out", type=Path, default=RESULTS / "calibration.json")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.captureWarnings(True)
    warnings.simplefilter("ignore")  # Optuna's, of experimental arguments

    rules = Rules.of_defaults(options.dim)
    settings = {
        "dim": options.dim,
        "confirms": options.confirms,
        "rules": asdict(rules),
        "distance": DISTANCE,
        "spread": SPREAD,
        "sources": _sources(),
        "optuna": optuna.__version__,
    }
    every = conditions(rules, dim=options.dim, confirms=options.confirms)
    found = measured_before(options.out, json.loads(json.dumps(settings)), "conditions")
    counts = {one.name: Counts(**found.get(one.name, {})) for one in every}
    while True:
        behind = min(every, key=lambda one: counts[one.name].replays)
        count = counts[behind.name]
        more = min(options.batch, options.replays - count.replays)
        if more <= 0:
            break
        measure(behind, count, replays=more)
        finish(options.out, settings=settings, bounds=[], conditions=_plain(counts))
    _print(every, counts)
    bounds = _bounds(every, counts)
    return finish(options.out, settings=settings, bounds=bounds, conditions=_plain(counts))


@dataclass
class Counts:
    """What a condition's replays came to.

    Arguments:
        replays: How many there were: of the seeds from 1 on.
        tested: Studies whose search had a candidate the first time.
        gains: Sum of the true gains of what their first block A chose.
        errors: Sum of its paired standard errors.
        seconds: Of the processor.
        first: By `min_gain`: studies that claimed a win at their first confirm.
        ever: The same at any confirm.
        false: The same of a schedule that is no better than the baseline.
    """

    replays: int = 0
    tested: int = 0
    gains: float = 0.0
    errors: float = 0.0
    seconds: float = 0.0
    first: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, MIN_GAINS), 0))
    ever: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, MIN_GAINS), 0))
    false: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, MIN_GAINS), 0))


def measure(condition: Condition, counts: Counts, *, replays: int) -> None:
    """Replay a condition so many times more, and count."""
    family = condition.family
    begun = time.process_time()
    for seed in range(counts.replays + 1, counts.replays + replays + 1):
        study = replay(
            family,
            condition.rules,
            seed=seed,
            confirms=condition.confirms,
            min_gain=max(MIN_GAINS),
        )
        if study:
            counts.tested += 1
            counts.gains += family.gain_at(study[0].point)
            counts.errors += study[0].measured.difference_error or 0.0
        for least in MIN_GAINS:
            won = [one.won(min_gain=least) for one in study]
            gains = [family.gain_at(one.point) for one in study]
            key = str(least)
            counts.first[key] += won[:1] == [True]
            counts.ever[key] += any(won)
            counts.false[key] += any(w and g <= 0 for w, g in zip(won, gains, strict=True))
    counts.replays += replays
    counts.seconds += time.process_time() - begun


def wilson(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927): near 0 and 1 it stays within them."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / trials
    scale = 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _sources() -> str:
    """Return the hash of the code whose rules are replayed."""
    rules = (best, places, most_promising, rounds, fewest_images, is_win, Measured)
    text = "".join(inspect.getsource(rule) for rule in rules) + f"{HOPELESS}{WORSE}{DECIDED}"
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(counts: Mapping[str, Counts]) -> dict[str, Any]:
    return {name: asdict(one) for name, one in counts.items()}


def _bounds(every: Sequence[Condition], counts: Mapping[str, Counts]) -> list[Bound]:
    bounds = []
    for one in every:
        count = counts[one.name]
        for least in MIN_GAINS:
            share = count.false[str(least)] / count.replays
            bounds.append(Bound(f"false wins, {one.name}, min_gain {least:g}", share, FALSE_WINS))
        if one.planted == 4:
            missed = 1 - count.ever[str(0.0)] / count.replays
            bounds.append(Bound(f"{one.name} not found, min_gain 0", missed, 1 - POWER))
    return bounds


def _print(every: Sequence[Condition], counts: Mapping[str, Counts]) -> None:
    rows: list[Sequence[str]] = []
    for one in every:
        count = counts[one.name]
        gain = one.family.gain * count.tested
        for least in map(str, MIN_GAINS):
            rows.append(
                (
                    one.name,
                    f"{float(least):g}",
                    str(count.replays),
                    f"{count.gains / gain:.2f}" if gain else "",
                    _share(count.first[least], count.replays),
                    _share(count.ever[least], count.replays),
                    _share(count.false[least], count.replays),
                )
            )
    head = ("studies", "min_gain", "replays", "gain found", "first confirm", "any", "false")
    print_table(head, rows)


def _share(count: int, trials: int) -> str:
    low, high = wilson(count, trials)
    return f"{count / trials:.1%} [{low:.1%}, {high:.1%}]"


if __name__ == "__main__":
    sys.exit(main())
