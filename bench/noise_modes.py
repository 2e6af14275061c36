"""What does it cost to draw the noise of images, in the two ways that a setting knows?

    OMP_NUM_THREADS=1 python -m bench.noise_modes
    python -m bench.noise_modes --device cuda

Draws what one batch of stochastic sampling takes (`skiptune.sampling.noise`): the latent in
float32, a label, and float64 churn noise for every step, onto the device. `edm` draws one image
after the other on the CPU and copies; `counter` computes all of them on the device. In turns;
prints one table, writes `bench/results/noise_modes.json` (`noise_modes_cuda.json` on an
accelerator), and exits 1 where the median ratio counter : edm is above 2.5 on a CPU or 0.5 on an
accelerator.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from bench.interleaved import Spread, Way, interleave, ratios
from bench.record import RESULTS, Bound, finish, print_table, use_threads
from skiptune.sampling.noise import image_streams

__all__ = ["LIMITS", "main"]

LIMITS = {"cpu": 2.5, "cuda": 0.5}
MODES = ("edm", "counter")
PARTS = ("latent", "steps", "all")
CLASSES = 1000


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--shape", type=int, nargs=3, default=(3, 64, 64))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    use_threads(options.threads)
    kind = torch.device(options.device).type
    if kind not in LIMITS:
        parser.error(f"--device {options.device}: expected one of {', '.join(LIMITS)}")
    name = "noise_modes.json" if kind == "cpu" else f"noise_modes_{kind}.json"
    shape = tuple(options.shape)
    state = torch.empty(options.batch, *shape, dtype=torch.float64, device=options.device)

    def draw(mode: str, part: str) -> Callable[[Any], object]:
        def call(_: Any) -> object:
            streams = image_streams(mode, range(options.batch), options.device)
            drawn: object = None
            if part != "steps":
                drawn = streams.randn(shape), streams.randint(CLASSES)
            if part != "latent":
                for _step in range(options.steps):
                    drawn = streams.randn_like(state)
            if kind == "cuda":
                torch.cuda.synchronize()
            return drawn

        return call

    ways: list[Way[Any]] = [
        Way(f"{mode}, {part}", nullcontext, draw(mode, part)) for part in PARTS for mode in MODES
    ]
    timings = interleave(ways, repeats=options.repeats)
    # The accelerator's own time is on no processor's clock.
    clock = "cpu" if kind == "cpu" else "wall"
    found = {
        part: ratios(timings, f"counter, {part}", f"edm, {part}", clock=clock) for part in PARTS
    }
    print(f"{options.batch} images of {list(shape)}, {options.steps} steps, on {kind}")
    rows = []
    for part in PARTS:
        spreads = [
            Spread.of([1e3 * getattr(t, clock) for t in timings[f"{mode}, {part}"]])
            for mode in MODES
        ]
        rows.append((part, *(f"{spread.median:.2f}" for spread in spreads), str(found[part])))
    print_table((f"{clock} time", "edm ms", "counter ms", "counter : edm"), rows)
    return finish(
        options.out or RESULTS / name,
        settings={
            "device": kind,
            "batch": options.batch,
            "shape": list(shape),
            "steps": options.steps,
            "repeats": options.repeats,
        },
        bounds=[Bound(f"counter : edm, all, on {kind}", found["all"].median, LIMITS[kind])],
        ratios={part: vars(spread) for part, spread in found.items()},
        timings={
            name: [{"wall": t.wall, "cpu": t.cpu} for t in times]
            for name, times in timings.items()
        },
    )


if __name__ == "__main__":
    sys.exit(main())
