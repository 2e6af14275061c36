"""A whole study that runs in seconds: the program that the crash tests kill.

`python tiny_study.py FOLDER [POINT ...]` tunes the study of a folder that `prepare` has filled,
appends every sampled image's process, schedule and seed to a log outside the package, and writes
the result. For each fail point a child process is begun first, which dies there.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skiptune.objectives.extractors import Extractor, register_extractor
from skiptune.objectives.reference import reference_of, save_reference
from skiptune.sampling import hooks
from skiptune.sampling import images as sampling_images
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search import chunks
from skiptune.search.spec import StudySpec
from skiptune.search.tune import tune
from skiptune.storage import failpoints

EXTRACTOR = "pooled-pixels"
FEATURES = 16


class PooledPixels(nn.Module):
    """Means of the 16 patches of 2x2 pixels of an 8x8 image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 127.5), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images.float() * self.scale, 2).flatten(1)


def _factory(*, weights: Path | None, sha256: str | None) -> Extractor:
    module = PooledPixels().eval()
    return Extractor(EXTRACTOR, FEATURES, "0" * 64, "means of 2x2 pixels", module, floats=True)


register_extractor(EXTRACTOR, _factory)


def spec(folder: Path, **changes: Any) -> StudySpec:
    """The study in a folder that `prepare` has filled; `changes` are dotted keys with `__`."""
    plain: dict[str, Any] = {
        "study": "tiny",
        "network": {"checkpoint": str(folder / "tiny.safetensors")},
        "setting": {"solver": "dpmpp_2m", "steps": 3},
        "space": {"kind": "per-skip", "low": 0.5, "high": 2.0},
        "objective": {"extractor": EXTRACTOR, "reference": str(folder / "reference.npz")},
        "search": {"sampler": "tpe", "evaluations": 6, "rungs": [250, 500], "promote": 0.34},
        "confirm": {"candidates": 2, "images": 250, "controls": False},
        "microbatch": 125,
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        target = plain
        for part in path:
            target = target[part]
        target[last] = value
    return StudySpec.from_json(plain)


def prepare(folder: Path, checkpoint: Path) -> None:
    """Write the reference: the network's own images at more steps and other seeds."""
    network = load_checkpoint(checkpoint).network
    extractor = _factory(weights=None, sha256=None)
    batches = sampling_images.sample(
        network, Setting(steps=8), range(5_000_000, 5_001_000), microbatch=125
    )
    features = torch.cat([extractor(batch.images) for batch in batches]).numpy()
    save_reference(
        folder / "reference.npz", reference_of(features, extractor=extractor, name="own images")
    )


def watch(log: Path) -> None:
    """Let the worker write down process, schedule and seed of every image it samples."""
    current: list[str] = []

    @contextmanager
    def scaled(network: nn.Module, schedule: hooks.Scales, **named: Any) -> Iterator[hooks.Handle]:
        assert isinstance(schedule, Schedule)
        current[:] = [schedule.digest]
        with hooks.scaled(network, schedule, **named) as handle:
            yield handle

    def sample(*arguments: Any, **named: Any) -> Iterator[sampling_images.Batch]:
        for batch in sampling_images.sample(*arguments, **named):
            lines = "".join(f"{os.getpid()} {current[0]} {seed}\n" for seed in batch.seeds)
            with log.open("a") as file:
                file.write(lines)
            yield batch

    chunks.scaled = scaled  # type: ignore[attr-defined]
    chunks.sample = sample  # type: ignore[attr-defined]


def main(folder: Path) -> None:
    """Tune the study of a folder."""
    watch(folder / "sampled.log")
    # Whoever is scored goes on, so that every commit of a study is come by.
    whole = spec(folder, search__promote=1.0)
    result = tune(whole, storage=f"sqlite:///{folder / 'tiny.db'}")
    plain = result.to_json()
    # Wall time differs between runs; everything else must not.
    del plain["seconds"]
    (folder / "result.json").write_text(json.dumps(plain, sort_keys=True, default=float))


def die_at(folder: Path, point: str) -> int:
    """Tune in a child process that dies at a fail point; return the signal that ended it."""
    child = os.fork()
    if child == 0:
        os.environ[failpoints.VARIABLE] = point
        try:
            main(folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[2:]:
        print(name, die_at(Path(sys.argv[1]), name), flush=True)
    main(Path(sys.argv[1]))
