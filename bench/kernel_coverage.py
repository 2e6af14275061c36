"""Do the intervals of KID and of the nearest-neighbour metrics cover what they claim to cover?

    python -m bench.kernel_coverage

Draws many pairs of samples, as two schedules on common seeds would give, against real images that
stay as they are, and counts how often 95 % intervals hold the truth. Prints one table, writes
`bench/results/kernel_coverage.json`, and exits 1 when a bound is missed by more than two
Monte-Carlo standard errors:

    kid, precision, density    of values and of paired differences, 93-97 %
    kid, images like real      at least 93 %: there the standard error is on the safe side
    recall, coverage           at least 90 %: error bars from 4 and 8 blocks of 250 seeds

KID's samples are drawn with replacement from a pool, whose own distance is the exact truth. Drawn
like this, equal images would be each other's neighbours, so those of the other metrics are drawn
anew, and the truth at N images is the mean over the replicates.

`error` is the claimed standard error by the actual one (root mean square by standard deviation).
`shared` is `error` when all blocks are compared with all real images instead of with a share of
them each, without the factor for few blocks in either.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.populations import Draw, gaussian, rectified
from bench.record import RESULTS, Bound, finish, print_table
from skiptune.objectives.kid import KernelReference, difference_of, estimate_of, kid_influence
from skiptune.objectives.neighbours import (
    NEIGHBOURS,
    Neighbourhood,
    difference,
    neighbour_metrics,
    seed_blocks,
)
from skiptune.objectives.paired import Estimate

__all__ = ["Row", "bounds_of", "kid_row", "main", "neighbour_rows"]

Array = NDArray[np.float64]

# A population's draws for the real images and for the pairs of schedules.
Populations = dict[str, tuple[Draw, Draw]]

_BY_BLOCKS = ("recall", "coverage")


@dataclass(frozen=True)
class Row:
    """What one metric's intervals did over all replicates.

    Arguments:
        metric: Its name.
        population: Its name.
        images: N.
        real_images: M.
        replicates: Pairs of samples drawn.
        value: The first schedule's true value.
        gain: The true paired difference.
        single: Share of intervals of the value that hold the truth.
        paired: The same of the paired difference.
        single_error: Claimed by actual standard error of the value.
        paired_error: The same of the paired difference.
        single_shared: As `single_error`, blocks against all real images; None without blocks.
        paired_shared: The same of the paired difference.
    """

    metric: str
    population: str
    images: int
    real_images: int
    replicates: int
    value: float
    gain: float
    single: float
    paired: float
    single_error: float
    paired_error: float
    single_shared: float | None = None
    paired_shared: float | None = None


def kid_row(
    name: str, population: tuple[Draw, Draw], *, images: int, real_images: int, replicates: int
) -> Row:
    """Measure KID's intervals on samples from a pool of 10000 pairs."""
    generator = np.random.default_rng(11)
    real_draw, draw = population
    real = KernelReference(real_draw(generator, real_images)[0])
    pool = draw(generator, 10_000)
    truths = [_pool_distance(rows, real) for rows in pool]
    single, paired = [], []
    for _ in range(replicates):
        chosen = generator.integers(len(pool[0]), size=images)
        ours, base = (kid_influence(rows[chosen], real) for rows in pool)
        single.append(estimate_of(ours))
        paired.append(difference_of(ours, base))
    gain = truths[0] - truths[1]
    return Row(
        metric="kid",
        population=name,
        images=images,
        real_images=real_images,
        replicates=replicates,
        value=truths[0],
        gain=gain,
        single=_held(single, truths[0]),
        paired=_held(paired, gain),
        single_error=_claimed(single),
        paired_error=_claimed(paired),
    )


def neighbour_rows(
    name: str, population: tuple[Draw, Draw], *, images: int, real_images: int, replicates: int
) -> list[Row]:
    """Measure the intervals of the four nearest-neighbour metrics."""
    generator = np.random.default_rng(12)
    real_draw, draw = population
    real = Neighbourhood(real_draw(generator, real_images)[0])
    blocks = seed_blocks(images)
    single: dict[str, list[Estimate]] = {metric: [] for metric in NEIGHBOURS}
    paired: dict[str, list[Estimate]] = {metric: [] for metric in NEIGHBOURS}
    shared: dict[str, list[Array]] = {metric: [] for metric in _BY_BLOCKS}
    for _ in range(replicates):
        pair = draw(generator, images)
        ours, base = (neighbour_metrics(rows, real) for rows in pair)
        for metric in NEIGHBOURS:
            single[metric].append(ours[metric].estimate())
            paired[metric].append(difference(ours[metric], base[metric]))
        against_all = [
            [
                neighbour_metrics(block, real, _BY_BLOCKS, blocks=0)
                for block in np.array_split(rows, blocks)
            ]
            for rows in pair
        ]
        for metric in _BY_BLOCKS:
            parts = [[block[metric].value for block in side] for side in against_all]
            shared[metric].append(np.array(parts))
    rows = []
    for metric in NEIGHBOURS:
        found = [
            np.array([estimate.value for estimate in side[metric]]) for side in (single, paired)
        ]
        errors: list[float | None] = [None, None]
        if metric in shared:
            both = np.array(shared[metric])
            for index, block in enumerate((both[:, 0], both[:, 1] - both[:, 0])):
                claimed = np.sqrt(block.var(axis=1, ddof=1).mean() / blocks)
                errors[index] = float(claimed / found[index].std(ddof=1))
        rows.append(
            Row(
                metric=metric,
                population=name,
                images=images,
                real_images=real_images,
                replicates=replicates,
                value=float(found[0].mean()),
                gain=float(found[1].mean()),
                single=_held(single[metric], float(found[0].mean())),
                paired=_held(paired[metric], float(found[1].mean())),
                single_error=_claimed(single[metric]),
                paired_error=_claimed(paired[metric]),
                single_shared=errors[0],
                paired_shared=errors[1],
            )
        )
    return rows


def bounds_of(row: Row) -> list[Bound]:
    """Return what has to hold of a row's shares, two Monte-Carlo standard errors allowed."""
    bounds = []
    for what, share in (("values", row.single), ("differences", row.paired)):
        where = f"{row.metric}, {row.population}, N = {row.images}, {what}"
        slack = 2 * (0.95 * 0.05 / row.replicates) ** 0.5
        if row.metric in _BY_BLOCKS:
            bounds.append(Bound(f"{where}: share outside", 1 - share, 0.10 + slack))
        elif row.population == _LIKE_REAL:
            bounds.append(Bound(f"{where}: share outside", 1 - share, 0.07 + slack))
        else:
            bounds.append(Bound(f"{where}: share off 0.95", abs(share - 0.95), 0.02 + slack))
    return bounds


def main() -> int:
    """Run all populations, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--out", type=Path, default=RESULTS / "kernel_coverage.json")
    options = parser.parse_args()
    populations = _populations(options.dim)
    rows = []
    for name, population in populations.items():
        for images in (500, 2000):
            rows.append(
                kid_row(
                    name,
                    population,
                    images=images,
                    real_images=5000,
                    replicates=options.replicates,
                )
            )
            _tell(rows[-1:])
    for name, population in populations.items():
        if name == _LIKE_REAL:
            continue
        for images, real_images in ((1000, 1000), (1000, 4000), (2000, 2000)):
            rows += neighbour_rows(
                name,
                population,
                images=images,
                real_images=real_images,
                replicates=options.replicates,
            )
            _tell(rows[-len(NEIGHBOURS) :])
    _print(rows)
    return finish(
        options.out,
        settings={"dim": options.dim, "replicates": options.replicates},
        bounds=[bound for row in rows for bound in bounds_of(row)],
        rows=[asdict(row) for row in rows],
    )


_LIKE_REAL = "like real"


def _populations(dim: int) -> Populations:
    plain = gaussian(dim)
    bent = rectified(dim, truth_images=20_000)

    def real(generator: np.random.Generator, images: int) -> tuple[Array, Array]:
        rows = generator.multivariate_normal(
            plain.reference.mean, plain.reference.covariance, size=(2, images)
        )
        return rows[0], rows[1]

    def bent_real(generator: np.random.Generator, images: int) -> tuple[Array, Array]:
        first, second = (np.maximum(rows + 0.3, 0) for rows in real(generator, images))
        return first, second

    return {
        "gaussian": (real, plain.draw),
        "rectified": (bent_real, bent.draw),
        _LIKE_REAL: (real, real),
    }


def _pool_distance(pool: Array, real: KernelReference) -> float:
    """Return the expected KID of samples drawn from the pool's rows with replacement."""
    count = len(pool)
    relative, _ = kid_influence(pool, real, absolute=False)
    lengths = np.einsum("nd,nd->n", pool, pool) / real.dim
    itself = float(((lengths + 1) ** 3).mean())
    # Two draws are the same row with probability 1 / P: then their kernel is a row's to itself.
    across = _across(pool, real)
    among = relative + 2 * across
    return (1 - 1 / count) * among + itself / count - 2 * across + real.similarity


def _across(pool: Array, real: KernelReference) -> float:
    total = 0.0
    for rows in np.array_split(pool, 20):
        total += float(((rows @ real.rows.T / real.dim + 1) ** 3).sum())
    return total / (len(pool) * len(real.rows))


def _held(estimates: list[Estimate], truth: float) -> float:
    inside = [low <= truth <= high for low, high in (one.interval() for one in estimates)]
    return float(np.mean(inside))


def _claimed(estimates: list[Estimate]) -> float:
    claimed = np.sqrt(np.mean([one.standard_error**2 for one in estimates]))
    return float(claimed / np.std([one.value for one in estimates], ddof=1))


def _tell(rows: list[Row]) -> None:
    for row in rows:
        print(
            f"{row.metric}, {row.population}, N = {row.images}, M = {row.real_images}: "
            f"{row.single:.3f} {row.paired:.3f}",
            file=sys.stderr,
            flush=True,
        )


def _print(rows: list[Row]) -> None:
    head = (
        *("metric", "population", "N", "M", "value", "gain", "single", "paired"),
        *("error", "paired", "shared", "paired"),
    )
    print_table(
        head,
        [
            (
                row.metric,
                row.population,
                str(row.images),
                str(row.real_images),
                f"{row.value:.4g}",
                f"{row.gain:.3g}",
                f"{row.single:.3f}",
                f"{row.paired:.3f}",
                f"{row.single_error:.2f}",
                f"{row.paired_error:.2f}",
                "" if row.single_shared is None else f"{row.single_shared:.2f}",
                "" if row.paired_shared is None else f"{row.paired_shared:.2f}",
            )
            for row in rows
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
