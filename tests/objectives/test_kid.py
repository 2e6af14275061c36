from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives import kid as module
from skiptune.objectives.kid import (
    KernelReference,
    check_rows,
    difference_of,
    estimate_of,
    kid,
    kid_difference,
    kid_influence,
    row_blocks,
)

Array = NDArray[np.float64]


def sample(count: int, dim: int = 6, *, seed: int = 0, shift: float = 0.0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, dim)) + shift


def kernel(x: Array, y: Array) -> float:
    return (sum(float(a) * float(b) for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3


def brute_force(ours: Array, real: Array) -> float:
    """The estimator as it is written in the paper, one pair of images at a time."""
    n, m = len(ours), len(real)
    among = sum(kernel(ours[i], ours[j]) for i in range(n) for j in range(n) if i != j)
    truth = sum(kernel(real[i], real[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(x, y) for x in ours for y in real)
    return among / (n * (n - 1)) + truth / (m * (m - 1)) - 2 * across / (n * m)


@pytest.mark.parametrize(("images", "real_images"), [(2, 2), (5, 9), (17, 6)])
def test_equals_a_double_loop(images: int, real_images: int) -> None:
    ours, real = sample(images, shift=0.4), sample(real_images, seed=1)
    assert kid(ours, real).value == pytest.approx(brute_force(ours, real), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("kind", ["random", "real"])
def test_equals_torch_fidelity(kind: str, fashion_features: Array) -> None:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    if kind == "random":
        ours, real = sample(400, 30, shift=0.2), sample(400, 30, seed=1)
    else:
        ours, real = fashion_features[:700] * 1.1, fashion_features[1300:]
    count = len(ours)
    expected = kid_features_to_metric(
        torch.from_numpy(ours),
        torch.from_numpy(real),
        kid_subsets=1,
        kid_subset_size=count,
        verbose=False,
    )[KEY_METRIC_KID_MEAN]
    assert expected > 0.001
    assert kid(ours, real).value == pytest.approx(expected, rel=1e-9)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, real = sample(53, shift=0.4), sample(38, seed=1)
    value, psi = kid_influence(ours, real)
    for block in (1, 7, 38, 53):
        monkeypatch.setattr(module, "BLOCK", block)
        again, again_psi = kid_influence(ours, real)
        assert again == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(again_psi, psi, atol=1e-12)


def test_blocks_are_the_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 4)
    rows = sample(10).astype(np.float32)
    blocks = list(row_blocks(rows))
    assert [len(block) for _, block in blocks] == [4, 4, 2]
    assert all(block.dtype == np.float64 for _, block in blocks)
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), rows)


def test_memory_is_that_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 64)
    ours, real = sample(1500).astype(np.float32), sample(1500, seed=1).astype(np.float32)
    tracemalloc.start()
    try:
        kid(ours, real)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < ours.nbytes * 2 + 20 * 64 * 64 * 8 < 1500 * 1500 * 8 / 20


def test_without_bias() -> None:
    real_seeds = np.random.default_rng(5)
    values = []
    for _ in range(400):
        ours, real = real_seeds.standard_normal((2, 60, 8))
        values.append(kid(np.maximum(ours, -0.3), np.maximum(real, -0.3)).value)
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    # The same without leaving out an image's kernel to itself would be off by far more.
    assert 2 * kernel(np.ones(8), np.ones(8)) / 60 > 30 * error


def test_influence_is_the_derivative_in_an_image_s_weight() -> None:
    count = 50
    ours, real = sample(count, shift=0.3), sample(40, seed=1)
    _, psi = kid_influence(ours, real)
    kernels = (ours @ ours.T / 6 + 1) ** 3
    across = ((ours @ real.T / 6 + 1) ** 3).mean(axis=1)
    np.fill_diagonal(kernels, 0)

    def weighted(weights: Array) -> float:
        share = weights / weights.sum()
        pairs = 1 - float((share**2).sum())
        return float(share @ kernels @ share) / pairs - 2 * float(share @ across)

    step = 1e-5
    for image in (0, 7, 49):
        weights = np.ones(count)
        weights[image] += step
        above = weighted(weights)
        weights[image] -= 2 * step
        slope = (above - weighted(weights)) / (2 * step) * count
        assert psi[image] == pytest.approx(slope, rel=1e-5, abs=1e-6)
    assert psi.mean() == pytest.approx(0, abs=1e-12)


def test_nearly_the_jackknife() -> None:
    count = 40
    ours, real = sample(count, shift=0.3), sample(30, seed=1)
    without = [kid(np.delete(ours, image, axis=0), real).value for image in range(count)]
    jackknife = np.sqrt((count - 1) * np.var(without))
    assert kid(ours, real).standard_error == pytest.approx(jackknife, rel=2 / count)


def claimed_over_actual(shift: float) -> tuple[float, float]:
    """Claimed by actual standard error over 300 replicates: of a value, of a difference."""
    real = KernelReference(sample(500, 8, seed=1))
    generator = np.random.default_rng(2)
    single, paired = [], []
    for _ in range(300):
        common = generator.standard_normal((150, 8))
        other = common + 0.3 * generator.standard_normal((150, 8))
        ours, base = (kid_influence(rows + shift, real) for rows in (common, other))
        single.append(estimate_of(ours))
        paired.append(difference_of(ours, base))
    ratios = []
    for estimates in (single, paired):
        spread = np.std([estimate.value for estimate in estimates], ddof=1)
        claimed = np.mean([estimate.standard_error for estimate in estimates])
        ratios.append(float(claimed / spread))
    return ratios[0], ratios[1]


def test_standard_errors_are_honest() -> None:
    # 300 replicates give a spread to 4 %.
    assert claimed_over_actual(0.5) == pytest.approx((1, 1), abs=0.12)


def test_standard_errors_are_on_the_safe_side_where_images_are_like_real_ones() -> None:
    assert all(0.9 < ratio < 1.12 * 2**0.5 for ratio in claimed_over_actual(0.0))


def test_a_paired_difference_is_the_difference_of_scores() -> None:
    ours, base, real = sample(60, shift=0.2), sample(60, shift=0.3), sample(80, seed=1)
    found = kid_difference(ours, base, real)
    assert found.value == pytest.approx(kid(ours, real).value - kid(base, real).value, rel=1e-9)
    assert found.value < 0
    assert found.images == 60
    mirrored = kid_difference(base, ours, real)
    assert mirrored.value == -found.value
    assert mirrored.standard_error == found.standard_error
    assert found.standard_error < kid(base, real).standard_error / 3
    same = kid_difference(base, base, real)
    assert (same.value, same.standard_error) == (0, 0)


def test_kept_influences_combine_to_the_same() -> None:
    ours, base, real = sample(60, shift=0.2), sample(60, shift=0.3), sample(80, seed=1)
    kept = KernelReference(real)
    pair = [kid_influence(rows, kept) for rows in (ours, base)]
    assert estimate_of(pair[0]) == kid(ours, real)
    found, expected = difference_of(*pair), kid_difference(ours, base, real)
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    assert found.standard_error == expected.standard_error


def test_differences_leave_the_real_images_kernels_out() -> None:
    kept = KernelReference(sample(80, seed=1))
    kid_difference(sample(60), sample(60, shift=0.1), kept)
    assert "similarity" not in vars(kept)
    relative, psi = kid_influence(sample(60), kept, absolute=False)
    value, again = kid_influence(sample(60), kept)
    assert value == relative + kept.similarity
    np.testing.assert_array_equal(psi, again)
    assert "similarity" in vars(kept)


@given(seed=st.integers(0, 10_000), images=st.integers(2, 30), real_images=st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_order_does_not_matter(seed: int, images: int, real_images: int) -> None:
    generator = np.random.default_rng(seed)
    ours = generator.standard_normal((images, 5)).astype(np.float32)
    real = generator.standard_normal((real_images, 5)).astype(np.float32)
    order = generator.permutation(images)
    value, psi = kid_influence(ours, real)
    moved, moved_psi = kid_influence(ours[order], generator.permutation(real))
    assert moved == pytest.approx(value, rel=1e-9, abs=1e-10)
    np.testing.assert_allclose(moved_psi, psi[order], atol=1e-10)


@given(seed=st.integers(0, 10_000), images=st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_swapping_the_sets_changes_nothing(seed: int, images: int) -> None:
    generator = np.random.default_rng(seed)
    ours, real = generator.standard_normal((images, 5)), generator.standard_normal((12, 5)) + 0.1
    assert kid(ours, real).value == pytest.approx(kid(real, ours).value, rel=1e-9, abs=1e-11)


def test_float32_rows_score_as_stored() -> None:
    ours, real = sample(60).astype(np.float32), sample(50, seed=1).astype(np.float32)
    assert kid(ours, real) == kid(ours.astype(np.float64), real.astype(np.float64))


def test_given_arrays_stay_as_they_are() -> None:
    ours, real = sample(20), sample(20, seed=1)
    before = ours.copy(), real.copy()
    kid(ours, real)
    np.testing.assert_array_equal(ours, before[0])
    np.testing.assert_array_equal(real, before[1])


def test_unequal_counts_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="40 rows"):
        kid_difference(sample(30), sample(40), sample(50, seed=1))


@pytest.mark.parametrize(
    ("ours", "real", "message"),
    [
        (sample(1), sample(20), "^features: expected .*N >= 2"),
        (sample(20), sample(1), "^real features: expected .*N >= 2"),
        (sample(20, 5), sample(20, 6), r"^features: .*\[N, 6\], found float64 \[20, 5\]"),
        (sample(20)[0], sample(20), r"found float64 \[6\]"),
        (np.empty((20, 0)), np.empty((20, 0)), r"found float64 \[20, 0\]"),
        (sample(20).astype(str), sample(20), r"expected real numbers"),
        (sample(20) * 1j, sample(20), r"found complex128 \[20, 6\]"),
    ],
)
def test_bad_shapes_are_refused(ours: Array, real: Array, message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        kid(ours, real)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    rows = sample(100).astype(np.float32)
    rows[[3, 70], 2] = bad
    with pytest.raises(ObjectiveError, match=r"^features: .*2 of 100 rows"):
        kid(rows, sample(50))
    with pytest.raises(ObjectiveError, match=r"^real features: .*2 of 100 rows"):
        kid(sample(50), rows)


def test_whole_numbers_are_features() -> None:
    rows = check_rows([[1, 2], [3, 4]], where="features", least=1)
    assert rows.dtype == np.float64
