"""Do the intervals of `skiptune.objectives.paired` cover what they claim to cover?

    python -m bench.coverage --data DATA

Draws many samples of N images from populations whose true distances are known, at N = 4d to
32d, and counts how often 95 % intervals hold the truth. Prints one table, writes
`bench/results/coverage.json`, and exits 1 when a bound is missed by more than two Monte-Carlo
standard errors:

    single    raw interval holds E[FD_N]                 92-99 % below 16d, 93-97.5 % from there
    paired    corrected interval holds the difference    the same
    null      equal distances, unequal spread: claims of a difference (nominal 5 %) at most 6 %

`raw paired` is what comparing plain distances gives on the same samples. DATA (Fashion-MNIST)
adds the `fashion-cnn` features of its 10000 held-out images under mild damage: they
are the population, drawn from with replacement, so its truth is exact.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.populations import (
    Population,
    gaussian,
    rectified,
    resampled,
    spread_null,
    spread_null_of,
)
from skiptune.objectives.frechet import frechet_distance, influence
from skiptune.objectives.paired import HALVES, QUARTERS, corrected_influence

__all__ = ["Row", "main", "measure", "missed"]

NORMAL = 1.959964
RESULTS = Path(__file__).parent / "results" / "coverage.json"


@dataclass(frozen=True)
class Row:
    """Shares of replicates, 0..1, for one population and N.

    Arguments:
        population: Its name.
        ratio: N / d.
        images: N.
        replicates: Samples drawn.
        single: Raw intervals that hold E[FD_N].
        limit: Corrected single intervals that hold FD.
        paired: Corrected paired intervals that hold the true difference.
        wins: Paired intervals wholly below the truth, i.e. false wins where the truth is 0.
        bias: Bias of the corrected difference, in its standard deviations.
        halves: As `paired`, corrected by halves only.
        raw_paired: As `paired`, uncorrected.
        raw_wins: As `wins`, uncorrected.
        null: Whether the true difference is 0 at unequal spread.
    """

    population: str
    ratio: int
    images: int
    replicates: int
    single: float
    limit: float
    paired: float
    wins: float
    bias: float
    halves: float
    raw_paired: float
    raw_wins: float
    null: bool


def measure(population: Population, *, images: int, replicates: int, seed: int) -> Row:
    """Draw `replicates` samples of `images` rows and count."""
    generator = np.random.default_rng(seed)
    reference = population.reference
    kinds = ("raw", "quarters", "halves")
    values = {kind: np.empty((replicates, 4)) for kind in kinds}
    for replicate in range(replicates):
        pair = population.draw(generator, images)
        for kind in kinds:
            found = [_scored(kind, rows, population) for rows in pair]
            (first, first_psi), (second, second_psi) = found
            values[kind][replicate] = (
                first,
                _error(first_psi),
                first - second,
                _error(first_psi - second_psi),
            )
    plain, limit, halves = (values[kind] for kind in kinds)
    truth = population.difference
    return Row(
        population=population.name,
        ratio=images // reference.dim,
        images=images,
        replicates=replicates,
        single=_held(plain[:, 0] - plain[:, 0].mean(), plain[:, 1]),
        limit=_held(limit[:, 0] - population.truth[0], limit[:, 1]),
        paired=_held(limit[:, 2] - truth, limit[:, 3]),
        wins=_below(limit[:, 2] - truth, limit[:, 3]),
        bias=float((limit[:, 2].mean() - truth) / limit[:, 2].std(ddof=1)),
        halves=_held(halves[:, 2] - truth, halves[:, 3]),
        raw_paired=_held(plain[:, 2] - truth, plain[:, 3]),
        raw_wins=_below(plain[:, 2] - truth, plain[:, 3]),
        null=population.name.startswith("spread null"),
    )


def missed(row: Row) -> list[str]:
    """Return the bounds that a row misses by more than two Monte-Carlo standard errors."""
    low, high = (0.92, 0.99) if row.ratio < 16 else (0.93, 0.975)
    checks = [("single", row.single, low, high), ("paired", row.paired, low, high)]
    if row.null:
        checks = [("null", 1 - row.paired, 0.0, 0.06)]
    return [
        f"{row.population}, N = {row.ratio}d: {name} {share:.3f}, bounds {least:.3f}..{most:.3f}"
        for name, share, least, most in checks
        if not least - _slack(least, row) <= share <= most + _slack(most, row)
    ]


def main() -> int:
    """Run all populations, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="Fashion-MNIST: IDX folder or npz")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--ratios", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    began = time.monotonic()
    populations = [
        gaussian(options.dim),
        rectified(options.dim, truth_images=400_000),
        spread_null(options.dim),
    ]
    if options.data is not None:
        populations += _fashion(options.data)
    head = ("N/d", "N", "single", "limit", "paired", "bias/sd", "wins", "halves", "raw paired")
    print(
        f"{'population':38}" + "".join(f"{word:>11}" for word in (*head, "raw wins")), flush=True
    )
    rows = []
    for population in populations:
        for ratio in options.ratios:
            row = measure(
                population,
                images=ratio * population.reference.dim,
                replicates=options.replicates,
                seed=options.seed,
            )
            rows.append(row)
            shares = (row.single, row.limit, row.paired)
            print(
                f"{row.population:38}{row.ratio:11d}{row.images:11d}"
                + "".join(f"{share:11.3f}" for share in shares)
                + f"{row.bias:+11.2f}{row.wins:11.3f}{row.halves:11.3f}"
                + f"{row.raw_paired:11.3f}{row.raw_wins:11.3f}",
                flush=True,
            )
    error = (0.95 * 0.05 / options.replicates) ** 0.5
    print(f"Monte-Carlo standard error of a share of 0.95: {error:.4f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, python {platform.python_version()}, "
        f"numpy {np.__version__}",
        "seconds": round(time.monotonic() - began),
        "seed": options.seed,
        "rows": [asdict(row) for row in rows],
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    failures = [line for row in rows for line in missed(row)]
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


def _scored(
    kind: str, rows: NDArray[np.float64], population: Population
) -> tuple[float, NDArray[np.float64]]:
    reference = population.reference
    if kind == "raw":
        return frechet_distance(rows, reference), influence(rows, reference)
    return corrected_influence(
        rows, reference, correction=QUARTERS if kind == "quarters" else HALVES
    )


def _fashion(data: Path) -> list[Population]:
    # Everything else runs without torch and without the images.
    from skiptune.objectives.extractors import load_extractor
    from skiptune.objectives.reference import load_reference
    from training.distortions import blur, contrast, noise
    from training.fashion_mnist import TRAINING_IMAGES, load
    from training.reference import features_of

    images = load(data)[0][TRAINING_IMAGES:]
    extractor = load_extractor("fashion-cnn")
    reference = load_reference("fashion-train", extractor=extractor)

    def features(chosen: NDArray[np.uint8]) -> NDArray[np.float64]:
        return features_of(extractor, chosen).astype(np.float64)

    pairs = {
        "blur 0.45 / 0.5 px": (blur(images, sigma=0.45), blur(images, sigma=0.5)),
        "contrast 0.9 / 0.85": (contrast(images, factor=0.9), contrast(images, factor=0.85)),
        "noise 8 / 10 levels": (
            noise(images, deviation=8, seed=0),
            noise(images, deviation=10, seed=0),
        ),
    }
    populations = [
        resampled(f"fashion-cnn, {name}", features(first), features(second), reference)
        for name, (first, second) in pairs.items()
    ]
    return [*populations, spread_null_of("fashion-cnn", features(images))]


def _error(psi: NDArray[np.float64]) -> float:
    return float(psi.std(ddof=1) / len(psi) ** 0.5)


def _held(miss: NDArray[np.float64], error: NDArray[np.float64]) -> float:
    return float((np.abs(miss) <= NORMAL * error).mean())


def _below(miss: NDArray[np.float64], error: NDArray[np.float64]) -> float:
    return float((miss < -NORMAL * error).mean())


def _slack(share: float, row: Row) -> float:
    return 2 * float(np.sqrt(max(share * (1 - share), 1e-4) / row.replicates))


if __name__ == "__main__":
    sys.exit(main())
