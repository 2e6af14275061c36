"""How well the model of moments predicts schedules that it has not seen.

    OMP_NUM_THREADS=1 python -m bench.moment_surrogate DATA

Reads the features that `bench.landscape` keeps in the folder DATA, of per-skip schedules on common
seeds, and predicts their corrected distances: of all others from random `--train` schedules,
`--splits` times, and of each from all others. Beside the model stand a ridge of the moments and a
ridge of the distance itself on the same columns, log scales and their squares, each with the
strength that turned out best, which no search could know. Bound: the model errs less than both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.landscape_points import BASELINE
from bench.landscape_sampling import FIRST_SEED, PIECE
from bench.record import RESULTS, Bound, finish, print_table
from skiptune.objectives.frechet import frechet_of_moments
from skiptune.objectives.moment_model import MomentModel, Seen, left_out
from skiptune.objectives.paired import scored
from skiptune.objectives.ranks import rank_correlation
from skiptune.objectives.reference import Reference, load_reference

Array = NDArray[np.float64]
Guesses = dict[str, list[Array]]  # by method: one for each strength

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def main() -> int:
    """Measure, print and record; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--train", type=int, nargs="+", default=[12, 20, 26])
    parser.add_argument("--splits", type=int, default=20)
    arguments = parser.parse_args()
    reference = load_reference("fashion-train")
    seen = read(arguments.data, arguments.images, reference)
    values = np.array([one.value for one in seen[1:]])
    if len(values) < max(arguments.train) + 5:
        parser.error(f"{len(values)} schedules are too few to train on {max(arguments.train)}")
    rows: list[dict[str, object]] = []
    bounds = []
    for count in arguments.train:
        found: dict[str, list[list[tuple[float, float]]]] = {}
        for split in range(arguments.splits):
            order = 1 + np.random.default_rng(split).permutation(len(values))
            some = [seen[place] for place in (0, *order[:count])]
            others = [seen[place] for place in order[count:]]
            truth = np.array([one.value for one in others])
            for name, guesses in predictions(some, others, reference).items():
                found.setdefault(name, []).append([quality(guess, truth) for guess in guesses])
        errors = {}
        for name, each in found.items():
            # [splits, strengths, 2]: the strength whose error is least over all splits.
            mean = np.array(each).mean(axis=0)
            errors[name], rank = (float(number) for number in mean[mean[:, 0].argmin()])
            rows.append({"trained on": count, "by": name, "error": errors[name], "rank": rank})
        ours = errors.pop("model")
        bounds.append(Bound(f"error trained on {count}", ours, min(errors.values())))
    alone = left_out(seen, reference)
    error, rank = quality(alone.predicted, alone.values)
    rows.append({"trained on": len(values) - 1, "by": "model", "error": error, "rank": rank})
    print(
        f"{len(values)} schedules of {arguments.images} images; the distance is "
        f"{seen[0].value:.2f} of the baseline, {values.mean():.2f} on average with a standard "
        f"deviation of {values.std():.2f}"
    )
    head = ("trained on", "by", "error", "rank correlation")
    print_table(head, [[_text(cell) for cell in row.values()] for row in rows])
    settings = {
        "images": arguments.images,
        "schedules": len(values),
        "deviation": float(values.std()),
        "splits": arguments.splits,
    }
    path = RESULTS / "moment_surrogate.json"
    return finish(path, settings=settings, bounds=bounds, rows=rows)


def read(folder: Path, images: int, reference: Reference) -> list[Seen]:
    """Return the baseline and the per-skip schedules of which there are so many images."""
    seeds = range(FIRST_SEED, FIRST_SEED + images, PIECE)
    found = []
    for path in sorted(folder.glob(f"*skip-*-{FIRST_SEED}.npz")):
        name = path.stem.removesuffix(f"-{FIRST_SEED}")
        files = [folder / f"{name}-{seed}.npz" for seed in seeds]
        if all(file.exists() for file in files):
            found.append(files)
    scales = [_scales(files[0]) for files in found]
    addresses = sorted({address for each in scales for address in each})
    baseline = [folder / f"{BASELINE}-{seed}.npz" for seed in seeds]
    seen = []
    for files, of_skips in zip([baseline, *found], [{}, *scales], strict=True):
        rows = np.concatenate([np.load(file)["features"] for file in files]).astype(np.float64)
        logs = np.log([of_skips.get(address, 1.0) for address in addresses])
        value = scored(rows, reference).corrected.value
        seen.append(Seen(logs, rows.mean(axis=0), np.cov(rows.T), value))
    return seen


def predictions(
    some: Sequence[Seen], others: Sequence[Seen], reference: Reference
) -> dict[str, list[Array]]:
    """Return what is predicted of others from some, by method and strength."""
    model = MomentModel(some, reference)
    found = {"model": [np.array([model.value(one.logs) for one in others])]}
    columns, fresh = (
        np.array([[*one.logs, *np.square(one.logs)] for one in part])
        for part in (some[1:], others)
    )
    base = some[0]
    for strength in STRENGTHS:
        kernel = columns @ columns.T
        strong = strength * np.trace(kernel) / len(kernel) * np.eye(len(kernel))
        weights = np.linalg.solve(kernel + strong, columns @ fresh.T).T
        changes = np.array([one.value for one in some[1:]]) - base.value
        found.setdefault("ridge of the distance", []).append(base.value + weights @ changes)
        means = np.array([one.mean for one in some[1:]]) - base.mean
        covariances = np.array([one.covariance for one in some[1:]]) - base.covariance
        start = frechet_of_moments(base.mean, base.covariance, reference)
        guess = [
            base.value
            - start
            + frechet_of_moments(
                base.mean + row @ means,
                base.covariance + np.tensordot(row, covariances, axes=1),
                reference,
            )
            for row in weights
        ]
        found.setdefault("ridge of the moments", []).append(np.array(guess))
    return found


def quality(guess: Array, truth: Array) -> tuple[float, float]:
    """Return the root mean square error and the rank correlation."""
    error = float(np.sqrt(np.mean(np.square(guess - truth))))
    return error, rank_correlation(guess.tolist(), truth.tolist()).value


def _scales(path: Path) -> dict[str, float]:
    with np.load(path) as file:
        terms = json.loads(str(file["made_from"]))["schedule"]["terms"]
    return {term["address"]: term["scale"] for term in terms}


def _text(cell: object) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


if __name__ == "__main__":
    raise SystemExit(main())
