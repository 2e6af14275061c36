"""How well cheap measures order schedules, and what they would save as the first rung.

    OMP_NUM_THREADS=1 python -m bench.screens DATA

DATA is the folder of `bench.landscape`: features of `fashion-cnn` of per-skip and linear schedules
of `fashion` (dpmpp_2m, 6 steps) on common seeds; nothing of it is sampled here. Beside them the
teacher's features on the same seeds are sampled, once: heun, 18 steps, 35 NFE (`--teacher` says
where they are kept). On the first N images each screen orders the schedules:

    teacher loss       mean squared difference to the teacher's features of the same seed
    baseline distance  the same to the untouched network's: what changes least
    FD                 the Frechet distance, corrected for N: the rung that is there

and Spearman's rank correlation with the corrected distance on images that no screen looks at (all
from the 501st on) says how well.
Its interval comes from a bootstrap over images, of the screen and of the truth apart, the same
images for all schedules; distances move by their images' influence values. Noise is then added
twice, so the interval is the basic one, reflected at the estimate. `best five kept` counts how
many of the five truly best schedules a screen leaves among its best third.

A screen saves images where fewer of them order at least as well as the distance at 500, the first
rung: then it saves so many of each schedule, and costs the teacher once, 35 evaluations an image.
There is no bound.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.landscape_points import Point, baseline, grid_points, skip_points
from bench.landscape_sampling import FIRST_SEED, SETTING, Sampler
from bench.record import RESULTS, finish, print_table
from skiptune.objectives.paired import scored
from skiptune.objectives.ranks import rank_correlation
from skiptune.objectives.reference import Reference, load_reference
from skiptune.objectives.teacher import teacher_losses
from skiptune.sampling.setting import Setting, evaluations

__all__ = ["Measure", "Screen", "correlation", "frechet_measure", "kept", "loss_measure"]

Array = NDArray[np.float64]
Features = NDArray[np.float32]

TEACHER: Final = Setting(solver="heun", steps=18)
RUNG: Final = 500  # images of the first rung: 8 per feature
COUNTS: Final = (50, 100, 250, 500)
FRECHET_COUNTS: Final = (250, 500)
BEST: Final = 5
RESAMPLED: Final = 1000  # bootstrap samples
EVALUATIONS: Final = 24  # of the study whose saving is told


@dataclass(frozen=True, eq=False)
class Measure:
    """What something says of each schedule.

    Arguments:
        values: float64 [schedules], lower is better.
        parts: float64 [schedules, images], mean 0: how each image moves the value.
    """

    values: Array
    parts: Array

    def resampled(self, weights: Array) -> Array:
        """Return the values on resampled images, float64 [samples, schedules].

        Arguments:
            weights: float64 [samples, images], how often each is drawn, over the images.
        """
        moved: Array = self.values + weights @ self.parts.T
        return moved


@dataclass(frozen=True)
class Screen:
    """How well a screen orders the schedules of one group.

    Arguments:
        name: Of the screen.
        group: Of the schedules.
        schedules: How many.
        images: N that the screen looks at.
        truth_images: Other ones behind the truth.
        value: Spearman's rank correlation with the truth.
        low: Lower end of its 95 % interval.
        high: Upper end.
        kept: Of the truly best five, those in the screen's best third.
    """

    name: str
    group: str
    schedules: int
    images: int
    truth_images: int
    value: float
    low: float
    high: float
    kept: int


def main() -> int:
    """Read, sample the teacher, order, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the landscape's features")
    parser.add_argument("--teacher", type=Path, help="folder of the teacher's (default DATA)")
    parser.add_argument("--images", type=int, default=1000, help="of each schedule, in the folder")
    parser.add_argument("--per-skip", type=int, default=60, help="random per-skip schedules")
    parser.add_argument("--out", type=Path, default=RESULTS / "screens.json")
    options = parser.parse_args()

    sampler = Sampler.open(options.data)
    skips = len(sampler.addresses)
    untouched = baseline(skips)
    groups = {
        "per-skip": skip_points(skips, options.per_skip),
        "linear": [untouched, *grid_points(skips)],
    }
    missing = [
        point.name
        for points in groups.values()
        for point in points
        if not sampler.on_file(point, FIRST_SEED, options.images)
    ]
    if missing:
        print(
            f"{options.data}: expected {options.images} images of every schedule, found none of"
            f" {', '.join(missing[:5])} and {max(len(missing) - 5, 0)} more"
            f" (run: python -m bench.landscape {options.data})",
            file=sys.stderr,
        )
        return 2
    folder = options.teacher or options.data
    folder.mkdir(parents=True, exist_ok=True)
    teaching = replace(sampler, folder=folder, setting=TEACHER)
    # The truth is on other images, which no teacher is needed for.
    teacher = teaching.features(replace(untouched, name="teacher"), FIRST_SEED, max(COUNTS))

    reference = load_reference("fashion-train")
    base = sampler.features(untouched, FIRST_SEED, options.images)
    found: list[Screen] = []
    for group, points in groups.items():
        features = _features(sampler, points, options.images)
        found += screened(group, features, base, teacher, reference)
    rows = [[*_cells(one), _saving(one, found)] for one in found]
    print_table(HEAD, rows)
    print()
    print("\n".join(_markdown(rows)))
    return finish(
        options.out,
        settings={
            "images": options.images,
            "first_seed": FIRST_SEED,
            "setting": SETTING.to_json(),
            "teacher": TEACHER.to_json(),
            "resampled": RESAMPLED,
            "rung": RUNG,
        },
        bounds=[],
        rows=[{**asdict(one), **_savings(one, found)} for one in found],
    )


def screened(
    group: str, features: Features, base: Features, teacher: Features, reference: Reference
) -> list[Screen]:
    """Return how well each screen orders the schedules of a group.

    Arguments:
        group: Its name.
        features: [schedules, N, d].
        base: [N, d], the untouched network's on the same seeds.
        teacher: [max(COUNTS), d] or more.
        reference: Of the distance.
    """
    rng = np.random.default_rng(0)
    # Images that no screen looks at, the same for all: their correlations can be compared.
    truth = frechet_measure(features[:, max(COUNTS) :], reference)
    found = []
    for count in COUNTS:
        here = features[:, :count]
        screens = {
            "teacher loss": loss_measure(here, teacher[:count]),
            "baseline distance": loss_measure(here, base[:count]),
        }
        if count in FRECHET_COUNTS:
            screens["FD"] = frechet_measure(here, reference)
        for name, screen in screens.items():
            value, low, high = correlation(screen, truth, rng)
            good = kept(screen.values, truth.values)
            left = features.shape[1] - max(COUNTS)
            found.append(Screen(name, group, len(features), count, left, value, low, high, good))
    return found


def frechet_measure(features: Features, reference: Reference) -> Measure:
    """Return the corrected distances of schedules, features [schedules, N, d]."""
    least = min(4.0, features.shape[1] / features.shape[2])
    found = [scored(rows, reference, least_per_feature=least) for rows in features]
    values = np.array([one.corrected.value for one in found])
    return Measure(values, np.array([one.influence for one in found]))


def loss_measure(features: Features, other: Features) -> Measure:
    """Return the mean squared differences of schedules' features to others of the same seeds."""
    losses = np.array([teacher_losses(rows, other) for rows in features])
    means = losses.mean(axis=1)
    return Measure(means, losses - means[:, None])


def correlation(
    screen: Measure, truth: Measure, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return Spearman's rank correlation and its 95 % interval over images."""
    value = rank_correlation(screen.values.tolist(), truth.values.tolist()).value
    ends = [one.resampled(_weights(one.parts.shape[1], rng)) for one in (screen, truth)]
    low, high = np.quantile(_spearman(*ends), [0.025, 0.975])
    return value, max(2 * value - float(high), -1.0), min(2 * value - float(low), 1.0)


def kept(screen: Array, truth: Array) -> int:
    """Return how many of the truly best schedules are in the screen's best third."""
    best = set(np.argsort(truth, kind="stable")[:BEST].tolist())
    third = np.argsort(screen, kind="stable")[: -(-len(screen) // 3)]
    return len(best & set(third.tolist()))


HEAD = ("screen", "schedules", "images", "rank correlation [95 %]", "best five kept", "saves")


def _features(sampler: Sampler, points: Sequence[Point], images: int) -> Features:
    return np.array([sampler.features(point, FIRST_SEED, images) for point in points])


def _weights(images: int, rng: np.random.Generator) -> Array:
    """Return what bootstrap samples add to a mean, float64 [samples, images]."""
    drawn: Array = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLED) / images
    return drawn


def _spearman(first: Array, second: Array) -> Array:
    """Return the rank correlations of rows without ties, float64 [samples]."""
    one, other = (
        np.argsort(np.argsort(values, axis=1), axis=1).astype(np.float64)
        for values in (first, second)
    )
    count = one.shape[1]
    squares = np.square(one - other).sum(axis=1)
    found: Array = 1 - 6 * squares / (count * (count**2 - 1))
    return found


def _savings(one: Screen, found: Sequence[Screen]) -> dict[str, float | None]:
    """Return the images that a screen saves per schedule, and a study of `EVALUATIONS` in all.

    None where it does not order as well as the first rung.
    """
    rung = next(
        other
        for other in found
        if (other.name, other.group, other.images) == ("FD", one.group, RUNG)
    )
    if one.value < rung.value or one.images >= RUNG:
        return {"saved": None, "saved_in_all": None}
    saved = RUNG - one.images
    once = 0.0
    if one.name == "teacher loss":
        once = one.images * evaluations(TEACHER) / evaluations(SETTING)
    return {"saved": saved, "saved_in_all": EVALUATIONS * saved - once}


def _saving(one: Screen, found: Sequence[Screen]) -> str:
    savings = _savings(one, found)
    if savings["saved"] is None:
        return "the rung itself" if (one.name, one.images) == ("FD", RUNG) else "nothing"
    return f"{savings['saved']:.0f} a schedule, {savings['saved_in_all']:+,.0f} in {EVALUATIONS}"


def _cells(one: Screen) -> list[str]:
    return [
        one.name,
        f"{one.schedules} {one.group}",
        f"{one.images}",
        f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]",
        f"{one.kept} of {BEST}",
    ]


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (HEAD, ["---"] * len(HEAD), *rows)]


if __name__ == "__main__":
    sys.exit(main())
