"""What does a distance cost at the size of Inception's features, against torch-fidelity?

    OMP_NUM_THREADS=1 python -m bench.frechet_speed

Times `frechet_of_moments` and torch-fidelity's `fid_statistics_to_metric` on the same statistics,
float64, d = 2048: those of rectified random features, two samples of 3d. The reference's root is
made beforehand, once for all schedules of a study. Prints one table, writes
`bench/results/frechet_speed.json`, and exits 1 when the median ratio of processor times exceeds
0.45, or the two distances differ by more than 1e-9 of the traces' sum.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch_fidelity.metric_fid import fid_statistics_to_metric

from bench.interleaved import Spread, Way, interleave, ratios
from bench.record import RESULTS, Bound, finish, print_table
from skiptune.objectives.frechet import frechet_of_moments
from skiptune.objectives.moments import Moments
from skiptune.objectives.reference import Reference

__all__ = ["LIMIT", "main"]

LIMIT = 0.45
PRECISION = 1e-9
THEIRS = "torch-fidelity"
OURS = "skiptune"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "frechet_speed.json")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("numpy takes its threads from the environment: set OMP_NUM_THREADS=1")

    dim = options.dim
    mean, covariance = _statistics(dim, seed=0, shift=0.0)
    real_mean, real_covariance = _statistics(dim, seed=1, shift=0.1)
    reference = Reference(
        "rectified", "simulated", "0" * 64, "none", dim, 3 * dim, real_mean, real_covariance, {}
    )
    began = time.process_time()
    _ = reference.root
    root_seconds = time.process_time() - began
    pair = (
        {"mu": mean, "sigma": covariance},
        {"mu": real_mean, "sigma": real_covariance},
    )
    values: dict[str, float] = {}

    def ours(_: Any) -> None:
        values[OURS] = frechet_of_moments(mean, covariance, reference)

    def theirs(_: Any) -> None:
        values[THEIRS] = fid_statistics_to_metric(*pair, False)["frechet_inception_distance"]

    ways: list[Way[Any]] = [Way(THEIRS, nullcontext, theirs), Way(OURS, nullcontext, ours)]
    timings = interleave(ways, repeats=options.repeats)
    ratio = ratios(timings, OURS, THEIRS, clock="cpu")
    traces = float(np.trace(covariance)) + reference.trace
    difference = abs(values[OURS] - values[THEIRS]) / traces
    print(f"distance {values[OURS]:.6f} at d = {dim}, traces {traces:.4g}")
    print_table(
        ("way", "CPU seconds (quartiles)", "distance"),
        [
            (name, str(Spread.of([timing.cpu for timing in taken])), f"{values[name]:.12g}")
            for name, taken in timings.items()
        ],
    )
    return finish(
        options.out,
        settings={"dim": dim, "repeats": options.repeats},
        bounds=[
            Bound("ratio of CPU time", ratio.median, LIMIT),
            Bound("difference by the traces' sum", difference, PRECISION),
        ],
        ratio=vars(ratio),
        root_cpu_seconds=root_seconds,
        distances=values,
        wall_and_cpu_seconds={
            name: [(timing.wall, timing.cpu) for timing in taken]
            for name, taken in timings.items()
        },
    )


def _statistics(
    dim: int, *, seed: int, shift: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    moments = Moments(dim)
    scale = np.exp(-2 * np.arange(dim, dtype=np.float32) / dim)
    for _ in range(3):
        rows = generator.standard_normal((dim, dim), dtype=np.float32) * scale
        moments.add(np.maximum(rows + shift, 0))
    return moments.mean, moments.covariance


if __name__ == "__main__":
    sys.exit(main())
