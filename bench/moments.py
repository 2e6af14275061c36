"""What do streamed moments cost, against one matrix product over the same rows?

    OMP_NUM_THREADS=1 python -m bench.moments

Times `skiptune.objectives.moments.Moments` over float32 rows that come in chunks of 250, for one
group (references) and for four (scores), against `A.T @ A` of the same rows as one float64 array,
which numpy hands to the BLAS routine `syrk`. Centring, the check for NaN and the conversion are
inside our time; the array is made beforehand. Prints one table, writes
`bench/results/moments.json`, and exits 1 when the median ratio of processor times exceeds 1.2 for
either way: in one group, or in four as scores take them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from bench.interleaved import Spread, Way, interleave, ratios
from bench.record import RESULTS, Bound, finish, print_table
from skiptune.objectives.moments import Moments

__all__ = ["LIMITS", "main"]

LIMITS = dict.fromkeys(("streamed", "streamed in 4 groups"), 1.2)
CHUNK = 250
SYRK = "one syrk"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "moments.json")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("numpy takes its threads from the environment: set OMP_NUM_THREADS=1")

    generator = np.random.default_rng(0)
    rows = generator.standard_normal((options.images, options.dim), dtype=np.float32)
    whole = rows.astype(np.float64)
    chunks = np.split(rows, range(CHUNK, options.images, CHUNK))

    def streamed(groups: int) -> Callable[[Any], object]:
        def call(_: Any) -> object:
            moments = Moments(options.dim, groups=groups)
            for chunk in chunks:
                moments.add(chunk)
            return moments

        return call

    ways: list[Way[Any]] = [
        Way(SYRK, nullcontext, lambda _: whole.T @ whole),
        *(
            Way(name, nullcontext, streamed(groups))
            for name, groups in zip(LIMITS, (1, 4), strict=True)
        ),
    ]
    timings = interleave(ways, repeats=options.repeats)
    found = {name: ratios(timings, name, SYRK, clock="cpu") for name in timings}
    print(f"{options.images} rows of {options.dim} features")
    print_table(
        ("way", "CPU seconds (quartiles)", "ratio of CPU time"),
        [
            (name, str(Spread.of([timing.cpu for timing in taken])), str(found[name]))
            for name, taken in timings.items()
        ],
    )
    return finish(
        options.out,
        settings={"dim": options.dim, "images": options.images, "repeats": options.repeats},
        bounds=[
            Bound(f"moments, {name}", found[name].median, limit) for name, limit in LIMITS.items()
        ],
        ratios={name: vars(ratio) for name, ratio in found.items()},
        wall_and_cpu_seconds={
            name: [(timing.wall, timing.cpu) for timing in taken]
            for name, taken in timings.items()
        },
    )


if __name__ == "__main__":
    sys.exit(main())
