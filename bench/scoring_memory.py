"""Does the memory for scoring from chunk files grow with the number of images?

    OMP_NUM_THREADS=1 python -m bench.scoring_memory

Writes chunk files of 250 images with random features (safetensors, as the store does), scores
them (`skiptune.objectives.paired.scored`: raw, corrected, influence) in a process of its own for
each count, and compares the largest resident memory of these processes. Prints one table, writes
`bench/results/scoring_memory.json`, and exits 1 when the largest count needs more than 1.05 times
what the smallest does, or any needs more than the bound: 16 matrices of d x d, two blocks of
rows, and what Python and the reference take before the first chunk is read.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save_file

from bench.record import RESULTS, Bound, finish, print_table
from skiptune.objectives.moments import BLOCK, Moments
from skiptune.objectives.paired import scored
from skiptune.objectives.reference import Reference

__all__ = ["GROWTH", "main"]

GROWTH = 1.05
MATRICES = 16
CHUNK = 250
MEGABYTE = 1e6


def main() -> int:
    """Measure, print, write; or score, in the child process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--images", type=int, nargs="+", default=[8250, 50_000])
    parser.add_argument("--out", type=Path, default=RESULTS / "scoring_memory.json")
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.score is not None:
        print(json.dumps(_score(options.score, options.images[0])))
        return 0

    measured = []
    with tempfile.TemporaryDirectory(prefix="skiptune-") as place:
        folder = Path(place)
        _write(folder, dim=options.dim, images=max(options.images))
        for images in options.images:
            command = [sys.executable, "-m", "bench.scoring_memory", "--score", str(folder)]
            found = subprocess.run(
                [*command, "--images", str(images)], check=True, stdout=subprocess.PIPE, text=True
            )
            measured.append({"images": images, **json.loads(found.stdout)})
    print(f"{options.dim} features, chunk files of {CHUNK} images")
    print_table(
        ("images", "largest MB", "MB before", "MB of features", "CPU s", "wall s", "corrected"),
        [
            (
                str(row["images"]),
                f"{row['largest']:.0f}",
                f"{row['before']:.0f}",
                f"{row['images'] * options.dim * 4 / MEGABYTE:.0f}",
                f"{row['cpu']:.1f}",
                f"{row['wall']:.1f}",
                f"{row['corrected']:.4f} +- {row['error']:.4f}",
            )
            for row in measured
        ],
    )
    rows = sorted(measured, key=lambda row: row["images"])
    allowed = 8 * options.dim * (MATRICES * options.dim + 2 * BLOCK) / MEGABYTE
    return finish(
        options.out,
        settings={"dim": options.dim, "images": options.images},
        bounds=[
            Bound("growth", rows[-1]["largest"] / rows[0]["largest"], GROWTH),
            *(
                Bound(
                    f"{row['images']} images, MB above the start",
                    row["largest"] - row["before"],
                    allowed,
                )
                for row in rows
            ),
        ],
        megabytes=measured,
    )


def _write(folder: Path, *, dim: int, images: int) -> None:
    generator = np.random.default_rng(0)
    scale = np.exp(-2 * np.arange(dim, dtype=np.float32) / dim)

    def draw(count: int, shift: float) -> NDArray[np.float32]:
        rows = generator.standard_normal((count, dim), dtype=np.float32) * scale
        drawn: NDArray[np.float32] = np.maximum(rows + np.float32(shift), 0)
        return drawn

    for first in range(0, images, CHUNK):
        count = min(CHUNK, images - first)
        save_file({"features": draw(count, 0.0)}, folder / f"{first:06}.safetensors")
    real = Moments(dim)
    for _ in range(3):
        real.add(draw(dim, 0.05))
    np.savez(folder / "reference.npz", mean=real.mean, covariance=real.covariance)


def _score(folder: Path, images: int) -> dict[str, Any]:
    with np.load(folder / "reference.npz") as arrays:
        mean, covariance = arrays["mean"], arrays["covariance"]
    reference = Reference(
        "rectified", "simulated", "0" * 64, "none", len(mean), None, mean, covariance, {}
    )
    _ = reference.root

    def chunks() -> Iterator[NDArray[np.float32]]:
        left = images
        for path in sorted(folder.glob("*.safetensors")):
            if left <= 0:
                return
            rows = load(path.read_bytes())["features"][:left]
            left -= len(rows)
            yield rows

    before = _largest()
    wall, cpu = time.perf_counter(), time.process_time()
    found = scored(chunks, reference)
    return {
        "before": before,
        "largest": _largest(),
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "raw": found.raw.value,
        "corrected": found.corrected.value,
        "error": found.corrected.standard_error,
    }


def _largest() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size * (1 if sys.platform == "darwin" else 1024) / MEGABYTE


if __name__ == "__main__":
    sys.exit(main())
