"""Pictures of what a schedule changes: the same seeds with and without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skiptune.views import numbers
from skiptune.views.picture import Row, write_picture

if TYPE_CHECKING:
    from skiptune.sampling.checkpoint import Checkpoint
    from skiptune.sampling.schedule import Schedule
    from skiptune.sampling.setting import Setting
    from skiptune.search.result import Result
    from skiptune.search.study import OpenStudy

__all__ = ["PICTURE_SEEDS", "before_after", "images_of"]

# Below all seeds that anything is decided on: searches begin at 1,000,000, confirms above it.
PICTURE_SEEDS = range(900_000, 900_012)
MICROBATCH = 50


def before_after(study: OpenStudy, result: Result, path: Path) -> Path:
    """Write the picture of a result: baseline row above tuned row, same seeds.

    Raises:
        OutputError: The file cannot be written.
    """
    network, setting = study.checkpoint, result.setting
    settings = (setting, setting.with_knobs(result.schedule.knobs))
    base, winner = result.baseline, result.winner
    captions = [f"baseline: {result.metric} {numbers.value(base.value)}"]
    if winner is not None:
        gain = winner.gain(base.value) or 0.0
        words = f"gain {numbers.percent(gain)} %, {result.verdict}"
        captions.append(f"tuned: {numbers.value(winner.value)}, {words}")
    rows = [
        Row(caption, images_of(network, at, schedule, PICTURE_SEEDS))
        for caption, schedule, at in zip(captions, (None, result.schedule), settings, strict=False)
    ]
    return write_picture(path, rows, force=True)


def images_of(
    checkpoint: Checkpoint, setting: Setting, schedule: Schedule | None, seeds: Sequence[int]
) -> NDArray[np.uint8]:
    """Return the images of seeds, uint8 of shape [N, C, H, W].

    Arguments:
        checkpoint: A network without a schedule installed, with its decoder if any.
        setting: How images are made.
        schedule: The scales; None leaves the network as it is.
        seeds: One per image.
    """
    from skiptune.sampling.hooks import scaled
    from skiptune.sampling.images import sample
    from skiptune.sampling.schedule import Schedule

    network, decoder = checkpoint.network, checkpoint.decoder
    microbatch = min(MICROBATCH, len(seeds))
    with scaled(network, schedule or Schedule.baseline()):
        batches = sample(network, setting, seeds, microbatch=microbatch, decoder=decoder)
        return np.concatenate([batch.images.cpu().numpy() for batch in batches])
