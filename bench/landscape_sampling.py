"""Features of the landscape's points on common seeds, in one file per point and piece of seeds.

A file holds float32 features [500, 64] in seed order and what they were made from. A file that
is there is read, not sampled again; one of another network, setting, extractor or schedule is
refused. Files appear whole or not at all, so a sampling that was stopped goes on where it stood,
and more images of a point cost only the new ones.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.landscape_points import Point
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample
from skiptune.sampling.setting import Setting

__all__ = ["FIRST_SEED", "MICROBATCH", "PIECE", "SETTING", "Sampler", "features_of"]

Features = NDArray[np.float32]

SETTING = Setting(solver="dpmpp_2m", steps=6)
"""How the bundled study `fashion` makes images."""

FIRST_SEED = 1_000_000
"""Where the seeds of every search begin."""

PIECE = 500
"""Images of a file: two chunks."""

MICROBATCH = 250
"""A seventh faster than the study's 50, and other last bits."""


@dataclass(frozen=True, eq=False)
class Sampler:
    """Network and extractor, and where their features are kept.

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
    def open(cls, folder: Path) -> Sampler:
        """Load `fashion` and `fashion-cnn` for a folder of features."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, load_checkpoint("fashion"), load_extractor("fashion-cnn"))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The network's skips, deepest first."""
        return tuple(skip.address for skip in self.checkpoint.skips)

    def features(self, point: Point, first_seed: int, count: int) -> Features:
        """Return a point's features float32 [count, 64], sampled where they are not on file.

        Arguments:
            point: The schedule.
            first_seed: Of consecutive seeds.
            count: Images, a multiple of `PIECE`.

        Raises:
            ValueError: For another count, and for a file that was made from something else.
        """
        if count < PIECE or count % PIECE:
            raise ValueError(f"images come in multiples of {PIECE}, not {count}")
        seeds = range(first_seed, first_seed + count, PIECE)
        return np.concatenate([self._piece(point, seed) for seed in seeds])

    def on_file(self, point: Point, first_seed: int, count: int) -> bool:
        """Return whether a point needs no sampling."""
        seeds = range(first_seed, first_seed + count, PIECE)
        return all((self.folder / f"{point.name}-{seed}.npz").exists() for seed in seeds)

    def _piece(self, point: Point, first_seed: int) -> Features:
        path = self.folder / f"{point.name}-{first_seed}.npz"
        made_from = self._made_from(point, first_seed)
        if path.exists():
            with np.load(path) as file:
                if json.loads(str(file["made_from"])) != made_from:
                    raise ValueError(f"{path} was made from something else: remove it")
                rows: Features = file["features"]
            return rows
        begun = time.perf_counter()
        rows = features_of(
            self.checkpoint, self.extractor, point, first_seed, PIECE, setting=self.setting
        )
        seconds = time.perf_counter() - begun
        partial = path.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.savez(stream, features=rows, made_from=json.dumps(made_from), seconds=seconds)
        os.replace(partial, path)
        print(f"{path.stem}: {PIECE} images in {seconds:.1f} s", file=sys.stderr, flush=True)
        return rows

    def _made_from(self, point: Point, first_seed: int) -> dict[str, object]:
        return {
            "network": self.checkpoint.sha256,
            "setting": self.setting.to_json(),
            "extractor": self.extractor.sha256,
            "schedule": point.schedule(self.addresses).to_json(),
            "microbatch": MICROBATCH,
            "first_seed": first_seed,
            "images": PIECE,
        }


def features_of(
    checkpoint: Checkpoint,
    extractor: Extractor,
    point: Point,
    first_seed: int,
    count: int,
    *,
    setting: Setting = SETTING,
) -> Features:
    """Sample so many images of consecutive seeds and return their features, float32 [count, d].

    Raises:
        ValueError: When an image is not finite: no point of the design should reach that.
    """
    addresses: Sequence[str] = tuple(skip.address for skip in checkpoint.skips)
    seeds = range(first_seed, first_seed + count)
    rows = []
    with scaled(checkpoint.network, point.schedule(addresses)):
        for batch in sample(checkpoint.network, setting, seeds, microbatch=MICROBATCH):
            if not bool(batch.finite.all()):
                raise ValueError(f"{point.name}: images that are not finite")
            rows.append(extractor(batch.images).numpy())
    return np.concatenate(rows)
