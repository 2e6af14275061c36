"""The canary: before it contributes, a worker shows that it makes the images that are stored.

A graphics card that computes wrong, another cuDNN, a build of torch with faster and coarser
arithmetic: each would mix its own small error into every paired difference, silently. So a worker
samples the first images of the study's baseline and compares them with the stored ones.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skiptune.errors import NetworkError
from skiptune.sampling.schedule import Schedule
from skiptune.search.chunks import sampled, versions_of
from skiptune.search.scoring import stored_arrays
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.storage import ledger

__all__ = ["IMAGES", "TOLERANCE", "deviation", "sing"]

IMAGES: Final = 16

TOLERANCE: Final = 0.005
"""Largest root mean square difference of features, in units of their spread over images.

The same network differs by 0 across thread counts and by 0.0009 where its weights are off by 1e-5;
float16 arithmetic by 0.008, bfloat16 by 0.025, weights off by 1 % by 0.05 (the tiny network on a
CPU, `tests/search/test_canary.py`). Between devices nothing was measured yet.
"""


def deviation(found: NDArray[np.float32], stored: NDArray[np.float32]) -> float:
    """Return how far features are from stored ones of the same images.

    Arguments:
        found: Features [N, d] of the first N images of `stored`.
        stored: Features [M, d], M at least N.

    Returns:
        Root mean square difference over images and features, divided by the root mean square
        deviation of the stored features from their means; infinite where `found` is not finite.
    """
    spread = float(np.sqrt(np.mean((stored - stored.mean(axis=0)) ** 2, dtype=np.float64)))
    off = float(np.sqrt(np.mean((found - stored[: len(found)]) ** 2, dtype=np.float64)))
    smallest = float(np.finfo(np.float32).tiny)
    return off / max(spread, smallest) if np.isfinite(off) else float("inf")


def sing(study: OpenStudy) -> float | None:
    """Compare this worker's images with the stored ones.

    Returns:
        The deviation, see `deviation`; None as long as no baseline images are stored.

    Raises:
        NetworkError: It exceeds `TOLERANCE`; both devices and what differs between their versions
            are named.
    """
    found = ledger.evaluations(study.database, study.id, kind="baseline", block=SEARCH)
    if not found:
        return None
    chunk = ledger.chunks_of(study.database, found[0].id)[0]
    if chunk.state != "done" or chunk.array is None:
        return None
    stored = stored_arrays(study, chunk)
    images = min(IMAGES, chunk.images)
    seeds = range(chunk.first_seed, chunk.first_seed + images)
    mine = sampled(study, Schedule.baseline(), study.setting, seeds).arrays
    compared = [name for name in mine if name not in ("finite", "label")]
    off = max(deviation(mine[name], stored[name]) for name in compared)
    labels_differ = "label" in stored and not np.array_equal(
        mine["label"], stored["label"][:images]
    )
    if off > TOLERANCE or labels_differ:
        what = "other labels" if labels_differ else f"features {off:.3g} of their spread away"
        here = versions_of(study)
        raise NetworkError(
            f"canary: {images} baseline images from seed {chunk.first_seed}",
            expected=f"the stored features within {TOLERANCE:g} of their spread"
            f" ({_words(chunk.provenance)})",
            found=f"{what} ({_words(here)})",
            hint="this worker was refused, the study goes on; use the versions above, or another"
            " device: `skiptune env` prints what is here",
        )
    return off


def _words(provenance: dict[str, Any] | None) -> str:
    facts = provenance or {}
    keys = (
        "gpu", "device", "torch", "diffusers", "transformers", "cuda", "cudnn", "tf32", "threads",
        "machine", "skiptune",
    )  # fmt: skip
    return ", ".join(f"{key} {facts[key]}" for key in keys if key in facts) or "unknown versions"
