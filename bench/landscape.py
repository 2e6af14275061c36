"""How the Frechet distance depends on the scales of `fashion`, measured and made replayable.

    OMP_NUM_THREADS=1 python -m bench.landscape DATA

Samples a 7 x 7 grid of linear schedules (bottom, top), 60 random per-skip schedules and 10
held-out ones of both kinds, 1000 images each on common seeds, at the setting of the bundled study
(dpmpp_2m, 6 steps), and keeps the features of every image in the folder DATA. Then:

    1. fits the emulator of each space (`landscape_emulator`), chosen by leaving points out;
    2. predicts the held-out points. Bound: within 0.3 paired standard errors, each of them;
    3. finds the best schedule of each space on the emulator, and samples it, the five points
       that measured best and the baseline again: 10000 images each on fresh seeds. These are the
       truth about the gain, and about how much of it the emulator and selection made up;
    4. writes `bench/data/landscape.npz` for replays, `bench/results/landscape.json` and
       `docs/images/landscape.png`.

It takes 190,000 images: half an hour on one thread that makes 590 evaluations of the network a
second. What is on file is not sampled again, so it may be stopped at any time; `--on-file`
samples no further point of the design, goes by those that are there and says how many those
were (the truth is sampled: `--truth-images 0` leaves it out).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.landscape_emulator import Emulator, Measured, population_distance
from bench.landscape_file import FILE, RANGES, Space, read, write
from bench.landscape_fit import Check, candidates, check, choose
from bench.landscape_picture import Bar, Plane, draw
from bench.landscape_points import (
    GRID_HIGH,
    GRID_LOW,
    Point,
    baseline,
    grid_points,
    held_out_points,
    ramp,
    skip_points,
)
from bench.landscape_sampling import FIRST_SEED, SETTING, Sampler
from bench.record import RESULTS, Bound, finish, print_table
from bench.replays import World
from skiptune.canonical import digest
from skiptune.objectives.frechet import frechet_of_moments
from skiptune.objectives.paired import Scored, difference_of, scored
from skiptune.objectives.reference import Reference, load_reference

__all__ = ["main"]

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "landscape.png"

TRUTH_SEED = 0
"""Seeds below 150,000 are for final reports: nothing is chosen by them."""

OFF = 0.3  # paired standard errors that a prediction may be off
PLANE = 61  # points on an axis of the picture's plane

Array = NDArray[np.float64]
Coordinates = Callable[[Point], Array]


@dataclass(frozen=True, eq=False)
class Sampled:
    """A point with its features, float32 [N, d], and what they say."""

    point: Point
    features: NDArray[np.float32]
    scored: Scored


def main() -> int:
    """Sample, fit, check, sample the truth, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that keeps the features")
    parser.add_argument("--images", type=int, default=1000, help="of each point")
    parser.add_argument("--per-skip", type=int, default=60, help="random per-skip points")
    parser.add_argument("--truth-images", type=int, default=10_000)
    parser.add_argument("--best", type=int, default=5, help="measured points sampled again")
    parser.add_argument("--kernels", type=int, default=100, help="tried for each space")
    parser.add_argument("--on-file", action="store_true", help="sample nothing")
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--out", type=Path, default=RESULTS / "landscape.json")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()

    sampler = Sampler.open(options.data)
    reference = load_reference("fashion-train")
    skips = len(sampler.addresses)

    def sampled(points: Sequence[Point], first_seed: int, images: int) -> list[Sampled]:
        rows = [sampler.features(point, first_seed, images) for point in points]
        found = [scored(features, reference) for features in rows]
        return [Sampled(*three) for three in zip(points, rows, found, strict=True)]

    design = [
        baseline(skips),
        *held_out_points(skips),
        *skip_points(skips, options.per_skip),
        *grid_points(skips),
    ]
    if options.on_file:
        design = [p for p in design if sampler.on_file(p, FIRST_SEED, options.images)]
    base, *points = sampled(design, FIRST_SEED, options.images)
    fitted = [s for s in points if not s.point.held_out]

    per_skip = tuple(f"skip/{address}" for address in sampler.addresses)
    spaces: dict[str, Space] = {}
    checks: dict[str, list[Check]] = {}
    left_out: dict[str, float] = {}
    for kind, names, coordinates in (
        ("linear", ("bottom", "top"), _ends),
        ("per-skip", per_skip, _logs),
    ):
        chosen = [s for s in fitted if kind == "per-skip" or s.point.kind == "linear"]
        emulator, left_out[kind] = _emulator(base, chosen, coordinates, reference, options.kernels)
        spaces[kind] = Space(names, tuple(s.point.name for s in chosen), emulator)
        here = "skip" if kind == "per-skip" else "linear"
        held = [s for s in points if s.point.held_out and s.point.kind == here]
        checks[kind] = check(
            emulator,
            reference,
            names=[s.point.name for s in held],
            points=np.array([coordinates(s.point) for s in held]),
            features=np.array([s.features for s in held]),
            paired_errors=_paired_errors(held, base),
        )
        _print_checks(kind, checks[kind], left_out[kind])

    worlds = {kind: space.world(kind, reference) for kind, space in spaces.items()}
    spaces = {k: replace(space, optimum=worlds[k].optimum) for k, space in spaces.items()}
    write(options.file, spaces)
    optima = {kind: _optimum(world, skips) for kind, world in worlds.items()}
    ranked = sorted(fitted, key=lambda s: difference_of(s.scored, base.scored).value)[
        : options.best
    ]
    again = [base.point, *optima.values(), *(s.point for s in ranked)]
    table = []
    if options.truth_images:
        fresh = [_fresh(point, sampler.addresses) for point in again]
        truth = sampled(fresh, TRUTH_SEED, options.truth_images)
        table = _truth_table(again, truth, worlds, points, base)
    options.picture.write_bytes(draw(_plane(worlds["linear"], fitted), _bars(fitted, base)))

    every = [c for kind in checks for c in checks[kind]]
    return finish(
        options.out,
        settings={
            "network": "fashion",
            "setting": SETTING.to_json(),
            "extractor": sampler.extractor.name,
            "images": options.images,
            "first_seed": FIRST_SEED,
            "truth_images": options.truth_images,
            "truth_seed": TRUTH_SEED,
            "grid_points": sum(s.point.kind == "linear" for s in fitted),
            "per_skip_points": sum(s.point.kind == "skip" for s in fitted),
            "held_out_points": len(every),
        },
        bounds=[
            Bound(
                "largest error at a held-out point in paired standard errors",
                max((c.off for c in every), default=float("inf")),
                OFF,
            )
        ],
        baseline={"raw": base.scored.raw.value, "corrected": base.scored.corrected.value},
        emulators={
            kind: {
                "kernel": asdict(space.emulator.kernel),
                "recolour": space.emulator.recolour,
                "left_out_error": left_out[kind],
                "held_out": [asdict(c) | {"off": c.off} for c in checks[kind]],
                "range": RANGES[kind],
                "baseline_distance": worlds[kind].baseline_distance,
                "optimum": worlds[kind].optimum,
                "gain": worlds[kind].gain,
            }
            for kind, space in spaces.items()
        },
        lost_in_the_file=_lost(spaces, options.file, reference),
        truth=table,
        points=[
            {
                "name": s.point.name,
                "scales": [round(float(scale), 6) for scale in np.exp(s.point.logs)],
                "difference": difference_of(s.scored, base.scored).value,
                "standard_error": difference_of(s.scored, base.scored).standard_error,
            }
            for s in points
        ],
    )


def _ends(point: Point) -> Array:
    return point.logs[[0, -1]]


def _logs(point: Point) -> Array:
    return point.logs


def _emulator(
    base: Sampled,
    chosen: Sequence[Sampled],
    coordinates: Coordinates,
    reference: Reference,
    kernels: int,
) -> tuple[Emulator, float]:
    measured = Measured(
        points=np.array([coordinates(s.point) for s in chosen]),
        features=np.array([s.features for s in chosen]),
        baseline=base.features,
    )
    return choose(
        measured,
        reference,
        paired_errors=_paired_errors(chosen, base),
        kernels=list(candidates(measured, count=kernels)),
    )


def _paired_errors(points: Sequence[Sampled], base: Sampled) -> Array:
    found = [difference_of(s.scored, base.scored).standard_error for s in points]
    return np.array(found)


def _optimum(world: World, skips: int) -> Point:
    point = world.point(world.optimum)
    if world.name == "linear":
        # The emulator knows linear schedules by their ends.
        bottom, top = (float(scale) for scale in np.exp(point))
        return Point("optimum-linear", "linear", ramp(bottom, top, skips))
    return Point("optimum-per-skip", "skip", point)


def _fresh(point: Point, addresses: Sequence[str]) -> Point:
    """Return the point under the name of its schedule: an optimum moves with the fit."""
    key = digest(point.schedule(addresses).to_json())
    return Point(f"truth-{key[:12]}", point.kind, point.logs)


def _truth_table(
    again: Sequence[Point],
    truth: Sequence[Sampled],
    worlds: dict[str, World],
    points: Sequence[Sampled],
    base: Sampled,
) -> list[dict[str, object]]:
    """Print and return what fresh seeds say of the best, beside what was measured or predicted.

    Arguments:
        again: The baseline first.
        truth: The same points on fresh seeds.
        worlds: Which predict the optima.
        points: As measured on the seeds of the landscape.
        base: The baseline on those.
    """
    expected = {s.point.name: difference_of(s.scored, base.scored).value for s in points}
    expected |= {"optimum-linear": -worlds["linear"].gain, base.point.name: 0.0}
    expected |= {"optimum-per-skip": -worlds["per-skip"].gain}
    table: list[dict[str, object]] = []
    rows = []
    for point, fresh in zip(again, truth, strict=True):
        ours = fresh.scored.corrected
        difference = difference_of(fresh.scored, truth[0].scored)
        table.append(
            {
                "name": point.name,
                "scales": [round(float(scale), 6) for scale in np.exp(point.logs)],
                "images": len(fresh.features),
                "corrected": ours.value,
                "standard_error": ours.standard_error,
                "difference": difference.value,
                "paired_error": difference.standard_error,
                "expected": expected[point.name],
            }
        )
        rows.append(
            (
                point.name,
                f"{ours.value:.2f} +- {ours.standard_error:.2f}",
                f"{difference.value:+.2f} +- {difference.standard_error:.2f}",
                f"{expected[point.name]:+.2f}",
            )
        )
    print(f"\nOn {len(truth[0].features)} fresh images each")
    print_table(("schedule", "FD corrected", "less untouched", "expected"), rows)
    return table


def _print_checks(kind: str, checks: Sequence[Check], left_out: float) -> None:
    print(f"\n{kind}: mean left-out error {left_out:.2f} paired standard errors; held out:")
    print_table(
        ("point", "measured", "predicted", "paired error", "off by"),
        [
            (
                c.name,
                f"{c.measured:+.3f}",
                f"{c.predicted:+.3f}",
                f"{c.paired_error:.3f}",
                f"{c.off:.2f}",
            )
            for c in checks
        ],
    )


def _lost(spaces: dict[str, Space], path: Path, reference: Reference) -> dict[str, object]:
    """Return what the file keeps of the distances of all fitted points."""
    kept = read(path)
    worst = max(
        abs(population_distance(ours, reference) - population_distance(theirs, reference))
        for kind, space in spaces.items()
        for ours, theirs in zip(
            space.emulator.measured.features,
            kept[kind].emulator.measured.features,
            strict=True,
        )
    )
    images = len(next(iter(spaces.values())).emulator.measured.baseline)
    size = path.stat().st_size
    print(f"\n{path.name}: {images} images, {size / 1e6:.1f} MB; a distance moves by {worst:.2g}")
    return {"images": images, "bytes": size, "largest_change_of_a_distance": worst}


def _plane(world: World, fitted: Sequence[Sampled]) -> Plane:
    axis = np.linspace(np.log(GRID_LOW), np.log(GRID_HIGH), PLANE)
    emulator, reference = world.emulator, world.reference
    heights = [
        [frechet_of_moments(*emulator.moments(np.array([b, t])), reference) for t in axis]
        for b in axis
    ]
    ends = [np.exp(_ends(s.point)) for s in fitted if s.point.kind == "linear"]
    best = world.optimum
    return Plane(
        low=GRID_LOW,
        high=GRID_HIGH,
        differences=np.array(heights) - world.baseline_distance,
        measured=tuple((float(bottom), float(top)) for bottom, top in ends),
        optimum=(best["bottom"], best["top"]),
    )


def _bars(fitted: Sequence[Sampled], base: Sampled) -> list[Bar]:
    found = [difference_of(s.scored, base.scored) for s in fitted if s.point.kind == "skip"]
    return [Bar(estimate.value, estimate.standard_error) for estimate in found]


if __name__ == "__main__":
    sys.exit(main())
