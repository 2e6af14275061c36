"""Images that are made up: a whole study in a second, from the same rows as a real one.

What is scored, promoted, confirmed and shared between workers depends on stored features alone.
Here they are normal noise of their seeds, shifted by the mean logarithm of a schedule's scales;
the reference is shifted too, so that larger scales are better and a search finds a gain.

`python made_up.py FOLDER URL LOG` is one more worker on the study of a folder: it appends a line
with process, schedule and seeds to the log for each chunk.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from skiptune.objectives.reference import reference_of, save_reference
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search import canary, chunks
from skiptune.search.chunks import Sampled
from skiptune.search.study import OpenStudy

__all__ = ["SHIFT", "replace", "sampled", "write_reference"]

SHIFT = 0.3  # of the reference's features: where the mean logarithm of the scales is best
NFE = 5.0

Sample = Callable[..., Sampled]


def sampled(
    study: OpenStudy,
    schedule: Schedule,
    setting: Setting,
    seeds: Sequence[int],
    *,
    on_images: Callable[[int], None] = lambda made: None,
) -> Sampled:
    """Make up what `chunks.sampled` returns; the first images do not depend on their number."""
    scales = [schedule.scale(skip.address, 1.0) for skip in study.checkpoint.skips]
    noise = np.random.default_rng(seeds[0]).standard_normal((len(seeds), study.extractor.dim))
    step = study.spec.microbatch
    for first in range(0, len(seeds), step):
        on_images(min(first + step, len(seeds)))
    arrays = {
        "features": (noise + np.mean(np.log(scales))).astype(np.float32),
        "finite": np.ones(len(seeds), np.float32),
        "label": (np.asarray(seeds) % 3).astype(np.float32),
    }
    return Sampled(arrays, NFE)


def replace(set_attribute: Callable[[Any, str, Any], None], sample: Sample = sampled) -> None:
    """Let chunks come from `sample`, and the canary from `sampled`.

    Arguments:
        set_attribute: `monkeypatch.setattr`, or `setattr` in a process of its own.
        sample: Takes and returns what `sampled` does.
    """
    set_attribute(chunks, "sampled", sample)
    set_attribute(canary, "sampled", sampled)


def write_reference(folder: Path, tiny_study: ModuleType) -> None:
    """Write the reference of the tiny study: made up too."""
    features = np.random.default_rng(1).standard_normal((1000, tiny_study.FEATURES)) + SHIFT
    reference = reference_of(
        features.astype(np.float32),
        extractor=tiny_study._factory(weights=None, sha256=None),
        name="made up",
    )
    save_reference(folder / "reference.npz", reference)


def main(folder: Path, url: str, log: Path) -> None:
    """Work on the study of a folder until it is complete."""
    from skiptune.search import worker
    from skiptune.search.course import whole_study
    from skiptune.search.study import open_stored

    found = importlib.util.spec_from_file_location("t", Path(__file__).with_name("tiny_study.py"))
    assert found is not None and found.loader is not None
    found.loader.exec_module(importlib.util.module_from_spec(found))  # registers the extractor

    def logged(study: OpenStudy, schedule: Schedule, *rest: Any, **named: Any) -> Sampled:
        seeds = rest[1]
        with log.open("a") as file:
            file.write(f"{os.getpid()} {schedule.digest} {seeds[0]} {len(seeds)}\n")
        return sampled(study, schedule, *rest, **named)

    replace(setattr, logged)
    worker.POLL_SECONDS = (0.05, 0.2)  # type: ignore[misc]
    study = open_stored("tiny", storage=url, artifacts=folder / "skiptune-artifacts")
    limits = worker.Limits(until_done=True)
    ended = worker.Worker(study, whole_study(study), limits=limits).run()
    study.database.close()
    print(ended)


if __name__ == "__main__":
    signal.alarm(240)  # whoever started it may be gone
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
