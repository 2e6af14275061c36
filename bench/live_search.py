"""What searches find on the real network with equal network time: nothing is replayed.

    OMP_NUM_THREADS=1 python -m bench.live_search FOLDER

Searches the 12 scales of `fashion` (dpmpp_2m, 6 steps, 0.8 to 1.25), each repeat on image seeds
of its own, with the strategies of the replays: `descent`, `moments` and TPE at 500 images. All of
them stop at the same number of evaluations of the network; the slopes of 50 images cost as much
as sampling 200. What a search recommends then is sampled on fresh seeds that are common to all,
beside the untouched network, and the corrected paired difference is its gain.

Prints the gain of each repeat, its mean and the standard deviation over repeats. There is no
bound: it is a comparison. Features and slopes are kept in FOLDER: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from bench.landscape_file import read
from bench.landscape_points import Point
from bench.landscape_sampling import MICROBATCH, SETTING
from bench.record import RESULTS, finish, print_table
from bench.replays import CHUNK, Oracle, Params, Score, Strategy, World
from bench.replays_descent import Descent
from bench.replays_stages import Moments
from bench.replays_strategies import FullSize
from skiptune.canonical import digest
from skiptune.objectives.cotangents import frechet_cotangents, over_blocks
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.extrapolation import GROUPS
from skiptune.objectives.frechet import frechet_distance
from skiptune.objectives.paired import difference_of, scored
from skiptune.objectives.reference import load_reference
from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample
from skiptune.sampling.setting import Setting
from skiptune.sampling.slopes import PASSES, image_slopes
from skiptune.search.sloped import IMAGES

__all__ = ["Live", "LiveOracle", "live_slopes", "main"]

Array = NDArray[np.float64]
Features = NDArray[np.float32]

FIRST_SEED, APART = 1_000_000, 50_000
"""Where the seeds of repeat 0 begin, and how far the next repeat's are."""

TRUTH_SEED = 0
"""Seeds below 150,000 are for final reports: no search sees them."""


@dataclass(frozen=True, eq=False)
class Live:
    """Network and extractor, and where what they make is kept.

    Arguments:
        folder: Of the files; made where it is missing.
        checkpoint: The network.
        extractor: Of the features.
        setting: How images are made.
    """

    folder: Path
    checkpoint: Checkpoint
    extractor: Extractor
    setting: Setting = SETTING

    @classmethod
    def open(cls, folder: Path, *, setting: Setting = SETTING) -> Live:
        """Load `fashion` and `fashion-cnn` for a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, load_checkpoint("fashion"), load_extractor("fashion-cnn"), setting)

    def features(self, point: Point, first_seed: int) -> Features:
        """Return the features of a chunk of consecutive seeds, float32 [250, d].

        Raises:
            ValueError: For images that are not finite: no schedule of the range reaches that.
        """
        found: Features = self._kept("features", point, first_seed, self._sampled)
        return found

    def slopes(self, point: Point, first_seed: int, left: Features) -> Array:
        """Return the mean over images of left . d features / d log scale, float64 [skips].

        Arguments:
            point: The schedule.
            first_seed: Of the first image.
            left: float32 [B, d], of the first images of the seeds.
        """

        def taken(point: Point, first_seed: int) -> Array:
            found = image_slopes(
                self.checkpoint.network,
                self.setting,
                point.schedule(self.addresses),
                range(first_seed, first_seed + len(left)),
                features=self.extractor.of_floats,
                cotangents=torch.from_numpy(left),
            )
            return np.asarray(found.values.sum(dim=2).mean(dim=0).numpy(), np.float64)

        found: Array = self._kept("slopes", point, first_seed, taken)
        return found

    @property
    def addresses(self) -> tuple[str, ...]:
        """The network's skips, deepest first."""
        return tuple(skip.address for skip in self.checkpoint.skips)

    def _sampled(self, point: Point, first_seed: int) -> Features:
        seeds = range(first_seed, first_seed + CHUNK)
        network = self.checkpoint.network
        rows = []
        with scaled(network, point.schedule(self.addresses)):
            for batch in sample(network, self.setting, seeds, microbatch=MICROBATCH):
                if not bool(batch.finite.all()):
                    raise ValueError(f"{point.name}: images that are not finite")
                rows.append(self.extractor(batch.images).numpy())
        return np.concatenate(rows)

    def _kept(self, what: str, point: Point, first_seed: int, make: Any) -> Any:
        made_from = {
            "what": what,
            "network": self.checkpoint.sha256,
            "extractor": self.extractor.sha256,
            "setting": self.setting.to_json(),
            "schedule": point.schedule(self.addresses).to_json(),
            "microbatch": MICROBATCH,
            "first_seed": first_seed,
        }
        path = self.folder / f"{digest(made_from)}.npy"
        if path.exists():
            return np.load(path)
        found = make(point, first_seed)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.save(stream, found)
        partial.replace(path)
        return found


class LiveOracle(Oracle):
    """Real images in the place of a replay's.

    Arguments:
        world: Whose names, range and reference count; its emulator is not asked.
        seed: Of the repeat, from 1 on: equal seeds, equal images.
        live: Makes them.
    """

    def __init__(self, world: World, seed: int, live: Live) -> None:
        super().__init__(world, seed)
        self.live = live

    def features(self, params: Params, first_chunk: int, chunks: int) -> Features:
        """Sample chunks of a schedule and return the rows, float32 [250 chunks, d]."""
        self.charge(params, first_chunk, chunks)
        point = self.point(params)
        rows = [
            self.live.features(point, self.first_seed(chunk))
            for chunk in range(first_chunk, first_chunk + chunks)
        ]
        return np.concatenate(rows)

    def raw(self, params: Params, chunks: int) -> float:
        """Return the plain distance of a schedule's first chunks."""
        return frechet_distance(self.features(params, 0, chunks), self.world.reference)

    def score(self, params: Params, chunks: int) -> Score:
        """Return all that a schedule's first chunks say."""
        rows = self.features(params, 0, chunks)
        found = scored(rows, self.world.reference)
        # Each image is in one group, and was drawn once.
        drawn = (np.arange(len(rows)) % GROUPS == np.arange(GROUPS)[:, None]).astype(np.float64)
        return Score(
            images=len(rows),
            raw=found.raw.value,
            corrected=found.corrected.value,
            influence=drawn * found.influence,
            drawn=drawn,
        )

    def point(self, params: Params) -> Point:
        """Return the schedule under the name of its parameters."""
        return Point("live", "skip", self.world.point(params))

    def first_seed(self, chunk: int) -> int:
        """Return the first seed of a chunk of this repeat."""
        return FIRST_SEED + APART * (self.seed - 1) + CHUNK * chunk


def live_slopes(oracle: Oracle, params: Params, chunks: int) -> tuple[Array, Array]:
    """Return the slopes of the corrected distance, and their standard errors, float64 [p] each.

    Arguments:
        oracle: A `LiveOracle`; it pays.
        params: Where they are taken.
        chunks: Blocks of images, at least 2.
    """
    assert isinstance(oracle, LiveOracle)
    blocks = []
    for chunk in range(chunks):
        rows = oracle.features(params, chunk, 1)
        left = frechet_cotangents(rows, oracle.world.reference)[:IMAGES].astype(np.float32)
        first = oracle.first_seed(chunk)
        blocks.append(oracle.live.slopes(oracle.point(params), first, left))
    oracle.spent += PASSES * IMAGES * chunks
    return over_blocks(blocks)


def strategies() -> list[Strategy]:
    """Return what is compared."""
    return [
        Descent("descent", slopes=live_slopes),
        Descent("descent, 500 and 1000", rungs=(2, 4), slopes=live_slopes),
        Moments("moments at 500"),
        FullSize("TPE at 500", "tpe", 2),
    ]


def found_within(steps: Iterator[tuple[int, Params]], budget: int, start: Params) -> Params:
    """Return what a search recommends when its budget is spent; before anything, the start."""
    last = start
    for spent, params in steps:
        if spent > budget:
            break
        last = params
    return dict(last)


def main() -> int:
    """Search, sample what was found, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="that keeps features and slopes")
    parser.add_argument("--budget", type=int, default=10_000, help="images, or as much time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--truth-images", type=int, default=2000)
    parser.add_argument("--only", nargs="*", help="names of strategies")
    parser.add_argument("--out", type=Path, default=RESULTS / "live_search.json")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    live = Live.open(options.folder)
    reference = load_reference("fashion-train")
    world = read()["per-skip"].world("per-skip", reference)
    truths: dict[str, Any] = {}

    def truth(params: Params) -> Any:
        point = Point("truth", "skip", world.point(params))
        key = hashlib.sha256(point.logs.tobytes()).hexdigest()
        if key not in truths:
            seeds = range(TRUTH_SEED, TRUTH_SEED + options.truth_images, CHUNK)
            rows = np.concatenate([live.features(point, seed) for seed in seeds])
            truths[key] = scored(rows, reference)
        return truths[key]

    base = truth(world.baseline)
    found: dict[str, list[dict[str, Any]]] = {}
    status = 0
    for repeat in range(1, options.repeats + 1):
        for strategy in strategies():
            if options.only and strategy.name not in options.only:
                continue
            steps = strategy.run(LiveOracle(world, repeat, live), options.budget)
            params = found_within(steps, options.budget, world.baseline)
            difference = difference_of(truth(params), base)
            row = {
                "params": params,
                "difference": difference.value,
                "standard_error": difference.standard_error,
                "gain": -difference.value / base.corrected.value,
            }
            found.setdefault(strategy.name, []).append(row)
            print(f"{strategy.name}, repeat {repeat}: {row['gain']:+.1%}", file=sys.stderr)
            status = finish(
                options.out,
                settings={
                    "budget": options.budget,
                    "truth_images": options.truth_images,
                    "setting": SETTING.to_json(),
                    "strategies": {s.name: s.settings() for s in strategies()},
                },
                bounds=[],
                baseline=base.corrected.value,
                repeats=found,
            )
    _print(found, base.corrected.value)
    return status


def _print(found: dict[str, list[dict[str, Any]]], baseline: float) -> None:
    rows: list[Sequence[str]] = []
    for name, each in found.items():
        gains = [one["gain"] for one in each]
        error = fmean(one["standard_error"] for one in each) / baseline
        rows.append(
            (
                name,
                f"{fmean(gains):+.1%}",
                f"{stdev(gains):.1%}" if len(gains) > 1 else "",
                f"{error:.1%}",
                " ".join(f"{gain:+.1%}" for gain in gains),
            )
        )
    print_table(("search", "mean gain", "deviation", "error of one", "each"), rows)


if __name__ == "__main__":
    sys.exit(main())
