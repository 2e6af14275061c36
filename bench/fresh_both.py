"""What schedules and settings of `fashion` gain on fresh seeds, in two feature spaces.

Each piece of 250 images is sampled once and looked at twice: in the features of the search and in
random patches, which no search has seen. Features are kept in a folder: a run that was stopped
goes on. The seeds are below 150,000: no study chooses anything by them.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skiptune.canonical import digest
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.frechet import LEAST_PER_FEATURE
from skiptune.objectives.names import ASSETS, FASHION_CNN, RANDOM_PATCHES
from skiptune.objectives.paired import Estimate, Scored, difference_of, scored
from skiptune.objectives.reference import Reference, load_reference
from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting

__all__ = ["FIRST_SEED", "LEVEL", "PIECE", "SPACES", "Both", "Gain"]

FIRST_SEED: Final = 100_000
LEVEL: Final = 0.95  # of the intervals
PIECE: Final = 250
MICROBATCH: Final = 250

SPACES: Final = {
    FASHION_CNN: "fashion-train",
    RANDOM_PATCHES: str(ASSETS / "fashion-train-random-patches.npz"),
}
"""Reference by feature space: the one that is searched on, and the one that is not."""

Features = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Gain:
    """What was measured in one feature space.

    Arguments:
        value: The corrected distance.
        difference: To the baseline on the same seeds; negative is better.
        gain: Percent of the baseline's value, positive is better.
        interval: Of the gain, at `LEVEL`.
    """

    value: Estimate
    difference: Estimate
    gain: float
    interval: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Both:
    """`fashion`, two feature networks with their references, and where features are kept.

    Arguments:
        folder: Of the files; made where it is missing.
        images: Of every row, a multiple of `PIECE`.
        checkpoint: The network.
        extractors: By name.
        references: By the same names.
        first_seed: Of the images.
    """

    folder: Path
    images: int
    checkpoint: Checkpoint
    extractors: dict[str, Extractor]
    references: dict[str, Reference]
    first_seed: int = FIRST_SEED

    @classmethod
    def open(cls, folder: Path, images: int) -> Both:
        """Load everything.

        Raises:
            ValueError: For a count that is no multiple of `PIECE`.
        """
        if images < PIECE or images % PIECE:
            raise ValueError(f"images come in multiples of {PIECE}, not {images}")
        folder.mkdir(parents=True, exist_ok=True)
        extractors = {name: load_extractor(name) for name in SPACES}
        references = {
            name: load_reference(path, extractor=extractors[name]) for name, path in SPACES.items()
        }
        return cls(folder, images, load_checkpoint("fashion"), extractors, references)

    def scored(self, schedule: Schedule, setting: Setting) -> dict[str, Scored]:
        """Return the corrected distance in each feature space."""
        pieces = range(self.first_seed, self.first_seed + self.images, PIECE)
        found = [self._piece(schedule, setting, seed) for seed in pieces]
        scores = {}
        for name, reference in self.references.items():
            # Fewer than the correction asks for are for trying a bench out.
            least = min(LEAST_PER_FEATURE, self.images / reference.dim)
            rows = np.concatenate([one[name] for one in found])
            scores[name] = scored(rows, reference, least_per_feature=least)
        return scores

    def gains(self, ours: dict[str, Scored], baseline: dict[str, Scored]) -> dict[str, Gain]:
        """Return what is gained over a baseline, by feature space."""
        return {name: _gain(ours[name], baseline[name]) for name in self.references}

    def _piece(self, schedule: Schedule, setting: Setting, seed: int) -> Features:
        made_from = {
            "network": self.checkpoint.sha256,
            "extractors": {name: one.sha256 for name, one in self.extractors.items()},
            "schedule": schedule.to_json(),
            "setting": setting.to_json(),
            "microbatch": MICROBATCH,
            "first_seed": seed,
        }
        path = self.folder / f"{digest(made_from)[:16]}.npz"
        if path.exists():
            with np.load(path) as file:
                return {name: file[name] for name in self.extractors}
        begun = time.perf_counter()
        parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self.extractors}
        network = self.checkpoint.network
        with scaled(network, schedule):
            for batch in sample(
                network, setting, range(seed, seed + PIECE), microbatch=MICROBATCH
            ):
                if not bool(batch.finite.all()):
                    raise ValueError("images that are not finite")
                for name, extractor in self.extractors.items():
                    parts[name].append(extractor(batch.images).numpy())
        features = {name: np.concatenate(rows) for name, rows in parts.items()}
        partial = path.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.savez(stream, **features)  # type: ignore[arg-type]
        os.replace(partial, path)
        seconds = time.perf_counter() - begun
        print(f"{PIECE} fresh images in {seconds:.0f} s", file=sys.stderr, flush=True)
        return features


def _gain(ours: Scored, baseline: Scored) -> Gain:
    difference = difference_of(ours, baseline)
    low, high = difference.interval(LEVEL)
    unit = -baseline.corrected.value / 100
    return Gain(ours.corrected, difference, difference.value / unit, (high / unit, low / unit))
