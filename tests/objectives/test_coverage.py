"""Intervals cover what they claim to: simulation with known truths, 95 % nominal.

The same counts at d = 64, more sizes and more replicates are `bench/coverage.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.coverage import Row, measure
from bench.populations import (
    Population,
    gaussian,
    rectified,
    resampled,
    spread_null,
    spread_null_of,
)
from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.reference import load_reference

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]

DIM = 16
REPLICATES = 600
LARGEST = 16 * DIM


@pytest.fixture(scope="module")
def faded(held_out: Images) -> Population:
    """Real features of images whose contrast two schedules lower to 90 % and to 85 %."""
    extractor = load_extractor("fashion-cnn")
    first, second = (
        extractor(torch.from_numpy(np.rint(held_out[0] * factor).astype(np.uint8)))
        for factor in (0.9, 0.85)
    )
    reference = load_reference("fashion-train", extractor=extractor)
    return resampled("fashion-cnn", first.double().numpy(), second.double().numpy(), reference)


def check(row: Row) -> None:
    low, high = (0.92, 0.99) if row.ratio < 16 else (0.93, 0.975)
    assert low <= row.single <= high, "raw interval, E[FD_N]"
    assert low <= row.paired <= high, "corrected paired interval, true difference"


@pytest.mark.parametrize("ratio", [4, 16])
@pytest.mark.parametrize("kind", ["gaussian", "rectified"])
def test_intervals_cover(kind: str, ratio: int) -> None:
    population = (
        gaussian(DIM) if kind == "gaussian" else rectified(DIM, truth_images=400 * LARGEST)
    )
    check(measure(population, images=ratio * DIM, replicates=REPLICATES, seed=ratio))


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [4, 16])
def test_intervals_cover_with_real_features(faded: Population, ratio: int) -> None:
    dim = faded.reference.dim
    check(measure(faded, images=ratio * dim, replicates=300, seed=ratio))


def test_unequal_spread_wins_raw_comparisons_and_not_ours() -> None:
    population = spread_null(DIM)
    row = measure(population, images=4 * DIM, replicates=REPLICATES, seed=0)
    assert row.raw_wins > 0.2, "the trap is there"
    assert 1 - row.paired <= 0.06
    assert abs(row.bias) < 0.1


@pytest.mark.slow
def test_unequal_spread_of_real_features(fashion_features: NDArray[np.float64]) -> None:
    population = spread_null_of("fashion-cnn", fashion_features)
    row = measure(population, images=4 * population.reference.dim, replicates=300, seed=0)
    assert row.raw_wins > 0.2
    assert 1 - row.paired <= 0.06


def test_the_correction_finds_the_distance_itself() -> None:
    population = gaussian(DIM)
    row = measure(population, images=8 * DIM, replicates=REPLICATES, seed=3)
    assert row.limit >= 0.93
    assert abs(row.bias) < 0.15
