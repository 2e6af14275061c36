"""How normal is the noise that the ODE leads real images back to?

    python -m bench.mmd_inversion

Runs the probability-flow ODE backwards, from held-out images (`fashion-test`, each with its label)
at sigma 0.002 to sigma 80, by Heun's method on EDM's grid, and measures how far the result
x / 80 is from the N(0, I) that sampling begins with: Skip-Tuning's analysis (Ma et al. 2024, arXiv
2402.15170). The distance is the squared maximum mean discrepancy with a Gaussian kernel,
unbiased (Gretton et al. 2012, JMLR 13, lemma 6); what N(0, I) contributes is known in closed form,
so no second sample adds noise. Compares the untouched network, the tuned schedule of the bundled
study and one scale on all skips on the same images; the row `N(0, I)` is what true noise gives.
Prints one table, writes `bench/results/mmd_inversion.json`. There is no bound.

What it shows: by this distance every scaled schedule, the tuned one too, leads images back to
noise that is less normal than the untouched network's, so the paper's account of why skip-tuning
helps finds no support here. One number is not all: the untouched network's noise is too weak (its
`mean_square` in the results is 0.46 instead of 1), and the tuned schedule's less so (0.80).
"""

from __future__ import annotations

import argparse
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bench.feature_loss import held_out, schedules
from bench.record import RESULTS, finish, print_table, use_threads
from skiptune.objectives.paired import Estimate
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.grids import edm_sigmas
from skiptune.sampling.hooks import scaled
from skiptune.sampling.schedule import Schedule

__all__ = ["centred_kernel", "discrepancy", "inverted", "main"]

Array = NDArray[np.float64]

MICROBATCH = 50
UNTOUCHED = "untouched"


def inverted(network: nn.Module, images: Tensor, labels: Tensor | None, steps: int) -> Tensor:
    """Return the noise that images are led back to, at standard deviation about 1.

    dx/dsigma = (x - D(x; sigma)) / sigma by Heun's method (Karras et al. 2022, algorithm 1) on
    EDM's grid of so many steps, from its lowest level to its highest.

    Arguments:
        network: A denoiser, network(x, sigma, class_labels).
        images: [N, C, H, W] in -1..1, taken to be at the lowest level as they are.
        labels: One-hot rows [N, classes], or None.
        steps: Noise levels, at least 2.

    Returns:
        float64 [N, C, H, W]: the state at the highest level, divided by that level.
    """
    levels = edm_sigmas(steps)[:-1][::-1]

    def slope(x: Tensor, level: float) -> Tensor:
        sigma = torch.tensor(level, dtype=torch.float64)
        estimate: Tensor = network(x, sigma, labels)
        return (x - estimate.to(torch.float64)) / level

    x = images.to(torch.float64)
    for low, high in pairwise(levels):
        first = slope(x, low)
        second = slope(x + (high - low) * first, high)
        x = x + (high - low) * (first + second) / 2
    return x / levels[-1]


def centred_kernel(rows: Array) -> Array:
    """Return h(x, y) = k(x, y) - E k(x, z) - E k(z, y) + E k(z, z'), z and z' normal.

    k(x, y) = exp(-|x - y|^2 / 2 d): the bandwidth's square is d, half the usual squared distance
    of two normal vectors (the median rule). The expectations over N(0, I) are Gaussian integrals.

    Arguments:
        rows: [N, d].

    Returns:
        float64 [N, N]; the mean of h over independent x, y is the squared MMD to N(0, I).
    """
    dim = rows.shape[1]
    width = float(dim)
    norms = np.square(rows).sum(axis=1)
    squares = norms[:, None] + norms[None] - 2 * rows @ rows.T
    one = (width / (width + 1)) ** (dim / 2) * np.exp(-norms / (2 * (width + 1)))
    both = (width / (width + 2)) ** (dim / 2)
    kernel: Array = np.exp(-squares / (2 * width)) - one[:, None] - one[None] + both
    return kernel


def discrepancy(kernel: Array) -> Estimate:
    """Return the mean of a symmetric kernel over distinct pairs: an unbiased U-statistic.

    Its error is that of the row means (Hajek's projection), 2 std / sqrt(N): right where the
    distance is above 0, and up to sqrt(2) too large where it is 0. The difference of two
    discrepancies of the same images is that of the difference of their kernels.

    Arguments:
        kernel: [N, N], N >= 3; the diagonal is not read.
    """
    count = len(kernel)
    means = (kernel.sum(axis=1) - np.diag(kernel)) / (count - 1)
    error = 2 * float(means.std(ddof=1)) / math.sqrt(count)
    return Estimate(float(means.mean()), error, count)


def main() -> int:
    """Invert, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="Fashion-MNIST: IDX folder or npz")
    parser.add_argument("--tuned", type=Path, help="a tuned.json of `fashion`")
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "mmd_inversion.json")
    options = parser.parse_args()
    use_threads(options.threads)

    checkpoint = load_checkpoint("fashion")
    network = checkpoint.network
    images, labels = (tensor[: options.images] for tensor in held_out(options.data))
    one_hot = F.one_hot(labels, checkpoint.config["label_dim"]).float()
    compared = {
        UNTOUCHED: Schedule.baseline(),
        **schedules(options.tuned, [skip.address for skip in checkpoint.skips]),
    }

    kernels: dict[str, Array] = {}
    results: dict[str, Any] = {}
    table = []
    for name, schedule in compared.items():
        with torch.inference_mode(), scaled(network, schedule):
            parts = [
                inverted(network, x, rows, options.steps)
                for x, rows in zip(
                    images.split(MICROBATCH), one_hot.split(MICROBATCH), strict=True
                )
            ]
        noise = torch.cat(parts).flatten(1).numpy()
        kernels[name] = centred_kernel(noise)
        found = discrepancy(kernels[name])
        change = discrepancy(kernels[name] - kernels[UNTOUCHED])
        results[name] = {
            "schedule": schedule.to_json(),
            "squared_mmd": found.value,
            "squared_mmd_error": found.standard_error,
            "difference": change.value,
            "difference_error": change.standard_error,
            "mean_square": float(np.square(noise).mean()),
        }
        table.append((name, _shown(found), "" if name == UNTOUCHED else _shown(change)))
        print(f"inverted: {name}", file=sys.stderr, flush=True)
    true = np.random.default_rng(0).standard_normal(noise.shape)
    floor = discrepancy(centred_kernel(true))
    table.append(("N(0, I)", _shown(floor), ""))

    print(f"{len(images)} images, {options.steps} levels, {2 * (options.steps - 1)} NFE")
    print("squared MMD to N(0, I) x 1000, with 95 % intervals")
    print_table(("schedule", "squared MMD", "paired difference"), table)
    return finish(
        options.out,
        settings={
            "checkpoint": checkpoint.name,
            "sha256": checkpoint.sha256,
            "images": len(images),
            "steps": options.steps,
            "kernel": "exp(-|x - y|^2 / (2 d))",
        },
        bounds=[],
        schedules=results,
        true_noise={"squared_mmd": floor.value, "squared_mmd_error": floor.standard_error},
    )


def _shown(estimate: Estimate) -> str:
    low, high = estimate.interval()
    value, low, high = (1000 * number for number in (estimate.value, low, high))
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    sys.exit(main())
