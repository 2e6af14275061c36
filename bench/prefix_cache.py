"""Could a search of windows be saved by starting from what the untouched network has made?

    OMP_NUM_THREADS=1 python -m bench.prefix_cache DATA

Before the first grid point of a window a schedule is the untouched network. A search that stored
the state of every image there would pay for the grid points from the window on alone. TPE searches
the 12 scales of `fashion` (dpmpp_2m, 6 steps, 0.8 to 1.25) with and without a window, each repeat
with a seed of its own, every schedule of 500 images. With a window it has half as many proposals
more, all of them sampled whole here: as if the cache saved a third, and cost nothing.

Prints what part of the network's evaluations the cache would have saved, and the gain of what was
found on fresh seeds that are common to all. There is no bound: it is a comparison. Studies and
features are kept in DATA: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna

from bench.fresh_features import FIRST_SEED, LEVEL, SETTING, Fresh
from bench.record import RESULTS, finish, print_table
from bench.searches import searched
from skiptune.search.space import WINDOW_FIRST
from skiptune.search.spec import StudySpec
from skiptune.search.study import SEARCH
from skiptune.storage import ledger
from skiptune.storage.database import open_database

__all__ = ["main", "saved", "window_spec"]

RUNG = 500  # images of every schedule: 8 per feature
LOW, HIGH = 0.8, 1.25


def saved(proposals: Sequence[Mapping[str, float]], steps: int) -> float:
    """Return the part of the network's evaluations that lies before the windows, 0 to 1.

    Arguments:
        proposals: Parameters of each; without a window none is saved.
        steps: Evaluations of the network for an image.
    """
    return fmean(one.get(WINDOW_FIRST, 0.0) / steps for one in proposals)


def window_spec(*, windowed: bool, proposals: int, seed: int) -> StudySpec:
    """Return a search of all scales by TPE.

    Arguments:
        windowed: Whether a window is searched beside them.
        proposals: How many.
        seed: Of TPE; the images are the same for all.
    """
    name = "window" if windowed else "all"
    space = {"kind": "per-skip", "low": LOW, "high": HIGH}
    return StudySpec.from_json(
        {
            "study": f"{name}-{proposals}-{seed}",
            "network": {"checkpoint": "fashion"},
            "setting": SETTING.to_json(),
            "space": space | ({"window": "search"} if windowed else {}),
            "objective": {"extractor": "fashion-cnn", "reference": "fashion-train"},
            "search": {
                "sampler": "tpe",
                "evaluations": proposals,
                "rungs": [RUNG],
                "seed": seed,
            },
            "confirm": {"images": RUNG, "controls": False},
            "microbatch": 50,
        }
    )


def main() -> int:
    """Search, sample, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that keeps studies and features")
    parser.add_argument("--proposals", type=int, default=16, help="without a window")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000, help="fresh ones of every row")
    parser.add_argument("--out", type=Path, default=RESULTS / "prefix_cache.json")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    fresh = Fresh.open(options.data, options.images)
    found: list[dict[str, Any]] = []
    table: list[Sequence[str]] = []
    status = 0
    for seed in range(options.repeats):
        for windowed in (False, True):
            proposals = options.proposals * 3 // 2 if windowed else options.proposals
            spec = window_spec(windowed=windowed, proposals=proposals, seed=seed)
            database = options.data / "prefix_cache.db"
            schedule = searched(spec, database).schedule
            share = saved(_proposals(database, spec.study), SETTING.steps)
            baseline, (row,) = fresh.rows({spec.study: (schedule, SETTING)})
            found.append({"saved": share, "proposals": proposals, **row.to_json()})
            table.append((*row.cells(baseline), f"{share:.0%}"))
            status = finish(
                options.out,
                settings={
                    "proposals": options.proposals,
                    "images": options.images,
                    "first_seed": FIRST_SEED,
                    "setting": SETTING.to_json(),
                    "rung": RUNG,
                    "range": [LOW, HIGH],
                },
                bounds=[],
                rows=found,
            )
    head = ("search", "corrected FD", "less untouched", f"gain, {LEVEL:.0%} interval", "saved")
    print_table(head, table)
    return status


def _proposals(database: Path, study: str) -> list[Mapping[str, float]]:
    with open_database(f"sqlite:///{database.absolute()}") as opened:
        row = ledger.require_study(opened, study)
        asked = ledger.evaluations(opened, row.id, kind="proposal", block=SEARCH)
        return [one.params for one in asked]


if __name__ == "__main__":
    sys.exit(main())
