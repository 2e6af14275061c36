"""What a search's steps do in features that it has not looked at.

    OMP_NUM_THREADS=1 python -m bench.second_features sqlite:///skiptune.db fashion --every 2

Samples the untouched network, one epsilon scale, and every n-th proposal of a study of the bundled
network on seeds that no study uses, and measures them in the features of the bundled classifier,
in random patches and in the lowest frequencies: distances corrected for the number of images, and
differences to the untouched network in percent of its value, with paired standard errors. Nothing
is written to the study. There is no bound: where a column rises that the search has not looked
at, a gain of the others is one in their features alone.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.record import RESULTS, finish, print_table
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.names import BUNDLED
from skiptune.objectives.paired import corrected, paired_difference
from skiptune.objectives.reference import load_reference
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search.study import SEARCH, OpenStudy, open_stored
from skiptune.storage import ledger

FIRST_SEED = 3_000_000  # of no search and no confirm
EPSILON = 1.015
MICROBATCH = 50

Features = dict[str, NDArray[np.float32]]


def main() -> int:
    """Measure, print and record; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("storage")
    parser.add_argument("study")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    study = open_stored(arguments.study, storage=arguments.storage)
    extractors = {name: load_extractor(name) for name in BUNDLED}
    references = {
        name: load_reference("fashion-train", extractor=one) for name, one in extractors.items()
    }
    rows: list[dict[str, str | float]] = []
    baseline: Features = {}
    for label, schedule, setting in _cases(study, arguments.every):
        found = _features(study, schedule, setting, extractors, arguments.images)
        baseline = baseline or found
        row: dict[str, str | float] = {"schedule": label}
        for name, features in found.items():
            whole = corrected(baseline[name], references[name]).value
            change = paired_difference(features, baseline[name], references[name])
            row |= {
                f"FD({name})": corrected(features, references[name]).value,
                f"change in % ({name})": 100 * change.value / whole,
                f"standard error ({name})": 100 * change.standard_error / whole,
            }
        rows.append(row)
        print(label, flush=True)
    head = tuple(rows[0])
    print_table(head, [[_text(row[key]) for key in head] for row in rows])
    settings = {"study": study.spec.to_json(), "images": arguments.images, "seed": FIRST_SEED}
    study.database.close()
    path = RESULTS / f"second_features_{arguments.study}.json"
    return finish(path, settings=settings, bounds=[], rows=rows)


def _text(cell: str | float) -> str:
    return cell if isinstance(cell, str) else f"{cell:.2f}"


def _cases(study: OpenStudy, every: int) -> list[tuple[str, Schedule, Setting]]:
    setting = study.setting
    cases = [
        ("untouched", Schedule.baseline(), setting),
        (f"epsilon x {EPSILON}", Schedule.baseline(), replace(setting, epsilon_scale=EPSILON)),
    ]
    made = ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
    cases += [
        (one.label, study.space.schedule(one.params), setting) for one in made[every - 1 :: every]
    ]
    return cases


def _features(
    study: OpenStudy,
    schedule: Schedule,
    setting: Setting,
    extractors: dict[str, Extractor],
    images: int,
) -> Features:
    network = study.checkpoint.network
    seeds = range(FIRST_SEED, FIRST_SEED + images)
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in extractors}
    with scaled(network, schedule):
        for batch in sample(network, setting, seeds, microbatch=MICROBATCH):
            for name, extractor in extractors.items():
                parts[name].append(extractor(batch.images).cpu().numpy())
    return {name: np.concatenate(found) for name, found in parts.items()}


if __name__ == "__main__":
    raise SystemExit(main())
