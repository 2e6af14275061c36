"""How far networks with folded scales are from hooked ones, on the bundled network.

    OMP_NUM_THREADS=1 python -m bench.folding

`fashion` (12 skips, 2 of them before a normalisation group that holds main path and skip) samples
images at dpmpp_2m, 6 steps, with hooks; every evaluation is repeated with weights into which the
same scales were folded: without looking at an image; with normalisations fitted to images of
other seeds, as `skiptune export --format baked` does; and with the two mixed blocks left at 1.
Weights are float32; in the last column, those that a float16 file would hold.

A cell: error of the denoiser's output, the largest of all evaluations, relative to it; the error
relative to what the scales change; and that of the images in grey levels of 255.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.fresh_features import SETTING
from bench.mechanism import SCALES
from bench.record import RESULTS, Bound, finish, print_table
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.deviation import Deviations, deviations
from skiptune.sampling.fold import fold
from skiptune.sampling.norm_fit import fit_norms
from skiptune.sampling.schedule import Schedule
from skiptune.search.study import SEARCH_SEED

EXACT = 1e-5  # of the output, in float32, where no group is mixed
NEAR = 0.01  # of the scales' effect, for the tuned scales of all blocks


def main() -> int:
    """Sample, fold, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16, help="compared, and as many fitted on")
    parser.add_argument("--out", type=Path, default=RESULTS / "folding.json")
    options = parser.parse_args()

    rows = {name: measured(schedule, options.images) for name, schedule in schedules().items()}
    print_table(
        ("scales", "unfitted", "fitted", "left at 1", "fitted, float16"),
        [(name, *(_cell(way) for way in ways.values())) for name, ways in rows.items()],
    )
    aligned, tuned = rows["tuned, blocks that are not mixed"], rows["tuned"]
    return finish(
        options.out,
        settings={"images": options.images, "setting": SETTING.to_json()},
        bounds=[
            Bound("output, no mixed block", aligned["fitted"].whole.output, EXACT),
            Bound("effect, all blocks, fitted", tuned["fitted"].whole.effect, NEAR),
        ],
        rows={
            name: {way: asdict(found) for way, found in ways.items()}
            for name, ways in rows.items()
        },
    )


def schedules() -> Mapping[str, Schedule]:
    """Return the schedules that are folded, by name."""
    skips = load_checkpoint("fashion").skips
    tuned = {skip.address: scale for skip, scale in zip(skips, SCALES, strict=True)}
    apart = {skip.address: tuned[skip.address] for skip in skips if not skip.mixed}
    found = {
        "tuned, blocks that are not mixed": Schedule.uniform(apart),
        "tuned": Schedule.uniform(tuned),
    }
    for scale in (0.5, 0.2, 0.1):
        found[f"{scale:g}, blocks that are not mixed"] = Schedule.uniform(
            dict.fromkeys(apart, scale)
        )
        found[f"{scale:g}"] = Schedule.uniform(dict.fromkeys(tuned, scale))
    return found


def measured(schedule: Schedule, images: int) -> dict[str, Deviations]:
    """Return how far each way of folding a schedule is from its hooks."""
    network: Any = load_checkpoint("fashion").network
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    halves = {name: tensor.to(torch.float16) for name, tensor in state.items()}
    fitted = fit_norms(network, schedule, SETTING, range(SEARCH_SEED, SEARCH_SEED + images))
    ways = {
        "unfitted": (fold(network, schedule), state),
        "fitted": (fold(network, schedule, fitted=fitted), state),
        "left": (fold(network, schedule, mixed="leave", fitted=fitted), state),
        "half": (fold(network, schedule, fitted=fitted), halves),
    }
    return {
        way: deviations(network, schedule, folded, SETTING, range(images), tensors=tensors)
        for way, (folded, tensors) in ways.items()
    }


def _cell(found: Deviations) -> str:
    return f"{found.whole.output:.1e} {100 * found.whole.effect:.2g} % {found.levels:.2g}"


if __name__ == "__main__":
    sys.exit(main())
