"""Intervals cover what they claim to: simulation with known truths, 95 % nominal.

The same counts at d = 64, more sizes and more replicates are `bench/coverage.py` for intervals
and `bench/bias.py` for what the correction leaves of the bias.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.bias import measure as measure_bias
from bench.coverage import Row, measure
from bench.populations import (
    Population,
    gaussian,
    rectified,
    resampled,
    spread_null,
    spread_null_of,
    spread_trap,
)
from skiptune.errors import ObjectiveError
from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.paired import LEAST_PER_FEATURE, paired_difference, scored
from skiptune.objectives.reference import Reference, load_reference

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


@pytest.mark.parametrize(("images", "kept"), [(256, 0.2), (500, 0.1), (512, 0.1)])
def test_the_correction_leaves_little_of_the_bias(images: int, kept: float) -> None:
    # The truth is a closed form: scaling direction k by s adds (1 - s)^2 v_k.
    row = measure_bias(spread_null(64), images=images, replicates=50, seed=images)
    assert row.raw_bias > 10 * row.bias_error, "there is a bias"
    assert row.kept + 2 * row.bias_error / row.raw_bias < kept


def test_diagonal_gaussians_lose_their_bias() -> None:
    dim, shift = 24, 0.2
    ours, theirs = np.linspace(0.5, 2, dim), np.linspace(2.5, 0.4, dim)
    truth = dim * shift**2 + float(((np.sqrt(ours) - np.sqrt(theirs)) ** 2).sum())
    reference = Reference("r", "x", "0", "p", dim, None, np.zeros(dim), np.diag(theirs), {})
    generator = np.random.default_rng(0)
    found = [
        scored(generator.standard_normal((4 * dim, dim)) * np.sqrt(ours) + shift, reference)
        for _ in range(300)
    ]
    plain = np.array([one.raw.value for one in found]) - truth
    corrected = np.array([one.corrected.value for one in found]) - truth
    assert plain.mean() > 10 * plain.std() / np.sqrt(300)
    error = float(corrected.std(ddof=1)) / np.sqrt(300)
    assert abs(corrected.mean()) + 2 * error < plain.mean() / 5


@pytest.mark.parametrize("images", [102, 256])
def test_the_order_of_plain_distances_is_a_trap(images: int) -> None:
    """The first schedule is farther, which plain distances deny up to 4 images per feature."""
    population = spread_trap(64)
    assert population.difference > 0
    row = measure_bias(population, images=images, replicates=40, seed=images)
    assert row.raw_wrong > 0.9
    assert row.raw_difference < 0
    if images < LEAST_PER_FEATURE * 64:
        rows = population.draw(np.random.default_rng(0), images)
        with pytest.raises(ObjectiveError, match="at least 256 images"):
            paired_difference(*rows, population.reference)
    else:
        assert row.wrong < 0.05
        assert row.difference == pytest.approx(population.difference, abs=3 * row.difference_error)
