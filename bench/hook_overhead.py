"""What does an installed schedule cost a forward of the network?

    python -m bench.hook_overhead

Times the forward of `fashion` at batch 50, as the sampler calls it (float64 state, one noise
level, inference mode), untouched and with a schedule on all skips: `static`, acting at every
noise level, and `windowed`, acting around the level of the call. Prints one table, writes
`bench/results/hook_overhead.json`, and exits 1 when a median ratio exceeds 1.05.

The rows `no_grad` are for information: outside inference mode the hooks copy the block's input
instead of scaling it in place, because checkpointing may need it as it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.interleaved import Spread, Way, interleave, ratios
from bench.record import RESULTS, Bound, finish, print_table, use_threads
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import start
from skiptune.sampling.noise import ImageStreams
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting

__all__ = ["LIMIT", "main", "schedules"]

LIMIT = 1.05
SIGMA = 1.0  # about where skips matter most
WINDOW = (0.1, 10.0)
UNTOUCHED = "untouched"
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
}


def schedules(network: nn.Module, addresses: tuple[str, ...]) -> dict[str, Schedule]:
    """Return a static and a windowed schedule that scale every skip by another factor."""
    # Never 1, where nothing would be multiplied.
    scales = {address: 0.89 + 0.02 * place for place, address in enumerate(addresses)}
    low, high = WINDOW
    return {
        "static": Schedule.uniform(scales),
        "windowed": Schedule.uniform(scales, low=low, high=high),
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="fashion", help="bundled name or file")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "hook_overhead.json")
    options = parser.parse_args()
    use_threads(options.threads)

    checkpoint = load_checkpoint(options.checkpoint)
    network = checkpoint.network
    installed = schedules(network, tuple(skip.address for skip in checkpoint.skips))
    noise, labels = start(network, Setting(), ImageStreams(range(options.batch)))
    x, sigma = noise.double() * SIGMA, torch.tensor(SIGMA, dtype=torch.float64)

    rows, bounds = [], []
    spreads: dict[str, dict[str, Spread]] = {}
    raw = {}
    for mode, context in MODES.items():

        def forward(_: object, context: Callable[[], Any] = context) -> None:
            with context():
                network(x, sigma, labels)

        ways: list[Way[Any]] = [Way(UNTOUCHED, nullcontext, forward)]
        for name, schedule in installed.items():
            ways.append(Way(name, partial(scaled, network, schedule), forward))
        timings = interleave(ways, repeats=options.repeats, warmup=3)
        raw[mode] = {name: [(t.wall, t.cpu) for t in took] for name, took in timings.items()}
        for name, took in timings.items():
            wall = ratios(timings, name, UNTOUCHED)
            cpu = ratios(timings, name, UNTOUCHED, clock="cpu")
            spreads[f"{mode}, {name}"] = {"wall": wall, "cpu": cpu}
            milliseconds = Spread.of([1000 * t.wall for t in took])
            rows.append((mode, name, str(milliseconds), str(wall), str(cpu)))
            if mode == "inference" and name != UNTOUCHED:
                bounds.append(Bound(f"hook overhead, {name}", wall.median, LIMIT))
    print(f"forward of {checkpoint.name}, batch {options.batch}, {len(checkpoint.skips)} skips")
    print_table(("mode", "schedule", "ms (quartiles)", "ratio", "ratio of CPU time"), rows)
    return finish(
        options.out,
        settings={
            "checkpoint": checkpoint.name,
            "sha256": checkpoint.sha256,
            "batch": options.batch,
            "repeats": options.repeats,
        },
        bounds=bounds,
        ratios={
            name: {clock: vars(s) for clock, s in found.items()} for name, found in spreads.items()
        },
        wall_and_cpu_seconds=raw,
    )


if __name__ == "__main__":
    sys.exit(main())
