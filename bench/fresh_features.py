"""Features of schedules and settings on fresh seeds, kept on file, and their distances.

A file holds float32 features [500, d] in seed order and what they were made from; one that is
there is read, so a sampling that was stopped goes on. The seeds are below 150,000: no
study chooses anything by them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiptune.canonical import digest
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.paired import Estimate, Scored, difference_of, scored
from skiptune.objectives.reference import Reference, load_reference
from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting

__all__ = ["FIRST_SEED", "LEVEL", "SETTING", "Fresh", "Row"]

SETTING = Setting(solver="dpmpp_2m", steps=6)
"""How the bundled study `fashion` makes images."""

FIRST_SEED = 100_000
LEVEL = 0.95  # of the intervals
PIECE = 500
MICROBATCH = 250


@dataclass(frozen=True, eq=False)
class Row:
    """What was measured of one way to make images.

    Arguments:
        name: For a person.
        schedule: The scales.
        setting: How images were made.
        value: The corrected distance.
        difference: To the untouched network at `SETTING` on the same seeds; negative is better.
    """

    name: str
    schedule: Schedule
    setting: Setting
    value: Estimate
    difference: Estimate

    def cells(self, baseline: Estimate) -> tuple[str, ...]:
        """Return the cells of a table: distance, difference, and the gain with its interval."""
        low, high = self.difference.interval(LEVEL)
        unit = -baseline.value / 100
        gain = f"{self.difference.value / unit:+.1f} % [{high / unit:+.1f}, {low / unit:+.1f}]"
        return (
            self.name,
            f"{self.value.value:.2f} +- {self.value.standard_error:.2f}",
            f"{self.difference.value:+.2f} +- {self.difference.standard_error:.2f}",
            gain,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "name": self.name,
            "schedule": self.schedule.to_json(),
            "setting": self.setting.to_json(),
            "value": asdict(self.value),
            "difference": asdict(self.difference),
            "interval": self.difference.interval(LEVEL),
        }


@dataclass(frozen=True, eq=False)
class Fresh:
    """`fashion`, its features, and where they are kept.

    Arguments:
        folder: Of the files; made where it is missing.
        images: Of every row, a multiple of `PIECE`.
        checkpoint: The network.
        extractor: Of the features.
        reference: Of the distances.
    """

    folder: Path
    images: int
    checkpoint: Checkpoint
    extractor: Extractor
    reference: Reference

    @classmethod
    def open(cls, folder: Path, images: int) -> Fresh:
        """Load everything.

        Raises:
            ValueError: For a count that is no multiple of `PIECE`.
        """
        if images < PIECE or images % PIECE:
            raise ValueError(f"images come in multiples of {PIECE}, not {images}")
        folder.mkdir(parents=True, exist_ok=True)
        network, extractor = load_checkpoint("fashion"), load_extractor("fashion-cnn")
        return cls(folder, images, network, extractor, load_reference("fashion-train"))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The network's skips, deepest first."""
        return tuple(skip.address for skip in self.checkpoint.skips)

    def rows(self, ways: dict[str, tuple[Schedule, Setting]]) -> tuple[Estimate, list[Row]]:
        """Return the untouched network's distance, and one row for each way to make images."""
        base = self._scored(Schedule.baseline(), SETTING)
        found = []
        for name, (schedule, setting) in ways.items():
            one = self._scored(schedule, setting)
            row = Row(name, schedule, setting, one.corrected, difference_of(one, base))
            print("  ".join(row.cells(base.corrected)), file=sys.stderr, flush=True)
            found.append(row)
        return base.corrected, found

    def _scored(self, schedule: Schedule, setting: Setting) -> Scored:
        seeds = range(FIRST_SEED, FIRST_SEED + self.images, PIECE)
        rows = np.concatenate([self._piece(schedule, setting, seed) for seed in seeds])
        return scored(rows, self.reference)

    def _piece(self, schedule: Schedule, setting: Setting, seed: int) -> NDArray[np.float32]:
        made_from = {
            "network": self.checkpoint.sha256,
            "extractor": self.extractor.sha256,
            "schedule": schedule.to_json(),
            "setting": setting.to_json(),
            "microbatch": MICROBATCH,
            "first_seed": seed,
            "images": PIECE,
        }
        path = self.folder / f"{digest(made_from)[:16]}.npz"
        if path.exists():
            with np.load(path) as file:
                kept: NDArray[np.float32] = file["features"]
            return kept
        begun = time.perf_counter()
        made = []
        with scaled(self.checkpoint.network, schedule):
            for batch in sample(
                self.checkpoint.network, setting, range(seed, seed + PIECE), microbatch=MICROBATCH
            ):
                if not bool(batch.finite.all()):
                    raise ValueError("images that are not finite")
                made.append(self.extractor(batch.images).numpy())
        features = np.concatenate(made)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.savez(stream, features=features, made_from=json.dumps(made_from))
        os.replace(partial, path)
        print(
            f"{PIECE} images in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True
        )
        return features
