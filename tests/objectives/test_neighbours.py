from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives import kid as blocks_module
from skiptune.objectives.neighbours import (
    NEIGHBOURS,
    Measured,
    Neighbourhood,
    difference,
    neighbour_metric,
    neighbour_metrics,
    seed_blocks,
)

Array = NDArray[np.float64]
Rows = NDArray[np.floating[Any]]
ALL = tuple(NEIGHBOURS)


def sample(
    count: int, dim: int = 4, *, seed: int = 0, shift: float = 0.0, scale: float = 1.0
) -> Array:
    return scale * np.random.default_rng(seed).standard_normal((count, dim)) + shift


def distance(x: Array, y: Array) -> float:
    return float(np.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True))))


def radius(rows: Array, index: int, neighbours: int) -> float:
    others = [distance(rows[index], row) for j, row in enumerate(rows) if j != index]
    return sorted(others)[neighbours - 1]


def brute_force(ours: Array, real: Array) -> dict[str, float]:
    """The papers' equations, one pair of images at a time."""

    def covered(point: Array, rows: Array, radii: list[float]) -> int:
        return sum(distance(point, row) <= reach for row, reach in zip(rows, radii, strict=True))

    real_3 = [radius(real, j, 3) for j in range(len(real))]
    real_5 = [radius(real, j, 5) for j in range(len(real))]
    ours_3 = [radius(ours, i, 3) for i in range(len(ours))]
    inside = [covered(x, real, real_3) > 0 for x in ours]
    reached = [covered(y, ours, ours_3) > 0 for y in real]
    counts = [covered(x, real, real_5) for x in ours]
    holding = [
        any(distance(x, y) <= reach for x in ours) for y, reach in zip(real, real_5, strict=True)
    ]
    return {
        "precision": sum(inside) / len(ours),
        "recall": sum(reached) / len(real),
        "density": sum(counts) / (5 * len(ours)),
        "coverage": sum(holding) / len(real),
    }


def values(ours: Rows, real: Rows | Neighbourhood) -> dict[str, float]:
    found = neighbour_metrics(ours, real, blocks=0)
    return {name: measured.value for name, measured in found.items()}


@pytest.mark.parametrize(("images", "real_images"), [(4, 6), (30, 50), (60, 25)])
def test_equals_a_double_loop(images: int, real_images: int) -> None:
    ours, real = sample(images, scale=0.8, shift=0.5), sample(real_images, seed=1)
    assert values(ours, real) == pytest.approx(brute_force(ours, real), abs=1e-12)


@pytest.mark.parametrize("kind", ["random", "real", "float32"])
def test_equals_torch_fidelity(kind: str, fashion_features: Array) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    if kind == "random":
        ours, real = sample(400, 8, scale=0.8, shift=0.3), sample(600, 8, seed=1)
    else:
        ours, real = fashion_features[:900] * 1.1, fashion_features[900:]
    if kind == "float32":
        ours, real = ours.astype(np.float32), real.astype(np.float32)
    # Generated features come first.
    expected = prc_features_to_metric(torch.from_numpy(ours), torch.from_numpy(real))
    found = neighbour_metrics(ours, real, ["precision", "recall"], blocks=0)
    assert expected["precision"] != pytest.approx(expected["recall"], abs=0.01)
    for name in ("precision", "recall"):
        assert 0.05 < expected[name] < 0.999
        assert found[name].value == pytest.approx(expected[name], abs=1e-6)


@given(
    seed=st.integers(0, 10_000),
    images=st.integers(4, 25),
    real_images=st.integers(6, 25),
    levels=st.integers(2, 4),
)
@settings(max_examples=40, deadline=None)
def test_ties_and_duplicates_are_those_of_torch_fidelity_and_the_loop(
    seed: int, images: int, real_images: int, levels: int
) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    # Few points of a grid: nearly every distance ties with others, and many rows are equal.
    generator = np.random.default_rng(seed)
    ours = generator.integers(levels, size=(images, 3)).astype(np.float64)
    real = generator.integers(levels, size=(real_images, 3)).astype(np.float64)
    found = values(ours, real)
    assert found == pytest.approx(brute_force(ours, real), abs=1e-12)
    expected = prc_features_to_metric(torch.from_numpy(ours), torch.from_numpy(real))
    for name in ("precision", "recall"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, real = sample(53, shift=0.4), sample(38, seed=1)
    whole = neighbour_metrics(ours, real, blocks=5)
    for block in (1, 7, 38, 53):
        monkeypatch.setattr(blocks_module, "BLOCK", block)
        again = neighbour_metrics(ours, real, blocks=5)
        for name in ALL:
            assert again[name].value == whole[name].value
            np.testing.assert_array_equal(again[name].parts, whole[name].parts)


def test_memory_is_that_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK", 64)
    ours, real = sample(1500).astype(np.float32), sample(1500, seed=1).astype(np.float32)
    tracemalloc.start()
    try:
        neighbour_metrics(ours, real, blocks=4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Some forty numbers for each image, and some matrices of one block.
    assert peak < 1500 * 40 * 8 + 20 * 64 * 64 * 8 < 1500 * 1500 * 8 / 15


def test_one_pass_measures_what_single_ones_do() -> None:
    ours, real = sample(60, shift=0.3), Neighbourhood(sample(50, seed=1))
    together = neighbour_metrics(ours, real, blocks=4)
    assert tuple(together) == ALL
    for name in ALL:
        alone = neighbour_metric(name, ours, real, blocks=4)
        assert (alone.name, alone.value) == (name, together[name].value)
        np.testing.assert_array_equal(alone.parts, together[name].parts)
    assert tuple(neighbour_metrics(ours, real, ["coverage", "density"], blocks=4)) == (
        "coverage",
        "density",
    )


@given(seed=st.integers(0, 10_000), images=st.integers(6, 40), copies=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_identical_sets(seed: int, images: int, copies: int) -> None:
    rows = np.repeat(sample(images, seed=seed, shift=100), copies, axis=0).astype(np.float32)
    found = values(rows, np.random.default_rng(seed).permutation(rows))
    assert found["precision"] == found["recall"] == found["coverage"] == 1
    # Every image is in its own ball and, on average, in those of 5 others.
    assert found["density"] >= 6 / 5 - 1e-12


@given(seed=st.integers(0, 10_000), shift=st.floats(100, 1e6))
@settings(max_examples=20, deadline=None)
def test_sets_far_apart(seed: int, shift: float) -> None:
    found = values(sample(20, seed=seed, shift=shift), sample(30, seed=seed + 1))
    assert set(found.values()) == {0.0}


@given(
    seed=st.integers(0, 10_000),
    factor=st.floats(1e-6, 1e6),
    offset=st.floats(-100, 100),
)
@settings(max_examples=30, deadline=None)
def test_scaling_and_moving_both_sets_changes_nothing(
    seed: int, factor: float, offset: float
) -> None:
    ours, real = sample(30, seed=seed, scale=0.9), sample(25, seed=seed + 1)
    assert values(factor * (ours + offset), factor * (real + offset)) == values(ours, real)


@given(seed=st.integers(0, 10_000), blocks=st.integers(4, 6))
@settings(max_examples=30, deadline=None)
def test_order_does_not_matter(seed: int, blocks: int) -> None:
    generator = np.random.default_rng(seed)
    ours, real = sample(60, seed=seed, scale=0.9), sample(60, seed=seed + 1)
    before = neighbour_metrics(ours, real, blocks=blocks)
    # Seeds change places within their block, real images within what is dealt to one block.
    order = np.concatenate(
        [generator.permutation(block) for block in np.array_split(np.arange(60), blocks)]
    )
    real_order = np.empty(60, int)
    for block in range(blocks):
        real_order[block::blocks] = generator.permutation(np.arange(block, 60, blocks))
    after = neighbour_metrics(ours[order], real[real_order], blocks=blocks)
    for name in ALL:
        assert after[name].value == pytest.approx(before[name].value, abs=1e-12)
        expected = before[name].parts
        if name in ("precision", "density"):
            expected = expected[order]
        np.testing.assert_allclose(after[name].parts, expected, atol=1e-12)
    assert values(generator.permutation(ours), generator.permutation(real)) == pytest.approx(
        {name: before[name].value for name in ALL}, abs=1e-12
    )


def test_precision_and_density_are_means_over_the_images() -> None:
    ours, real = sample(80, scale=0.8, shift=0.4), sample(70, seed=1)
    for name in ("precision", "density"):
        found = neighbour_metric(name, ours, real)
        assert found.parts.shape == (80,)
        assert found.value == found.parts.mean()
        estimate = found.estimate()
        assert (estimate.value, estimate.images) == (found.value, 80)
        assert estimate.standard_error == pytest.approx(found.parts.std(ddof=1) / np.sqrt(80))
        single = [neighbour_metric(name, ours[i : i + 2], real).parts[0] for i in range(5)]
        np.testing.assert_array_equal(found.parts[:5], single)


def test_recall_and_coverage_have_blocks_that_are_the_comparison_in_small() -> None:
    ours, real = sample(83, scale=0.8, shift=0.4), sample(70, seed=1)
    edges = [0, 21, 42, 63, 83]
    for name in ("recall", "coverage"):
        found = neighbour_metric(name, ours, real, blocks=4)
        expected = [
            brute_force(ours[edges[block] : edges[block + 1]], real[block::4])[name]
            for block in range(4)
        ]
        np.testing.assert_allclose(found.parts, expected, atol=1e-12)
        assert found.value == pytest.approx(brute_force(ours, real)[name], abs=1e-12)
        # Student's t of 3 degrees of freedom has the variance 3.
        error = np.std(expected, ddof=1) / 2 * np.sqrt(3)
        assert found.estimate().standard_error == pytest.approx(error, rel=1e-12)


def test_negative_differences_are_better() -> None:
    real = Neighbourhood(sample(1500, 2, seed=1))
    base = neighbour_metrics(sample(1500, 2, seed=2, shift=2), real)
    ours = neighbour_metrics(sample(1500, 2, seed=2, shift=0.1), real)
    for name in ("precision", "coverage", "density"):
        found = difference(ours[name], base[name])
        assert ours[name].value > base[name].value
        assert found.value == base[name].value - ours[name].value < 0
        assert found.interval()[1] < 0
        assert found.images == 1500
        mirrored = difference(base[name], ours[name])
        assert mirrored.value == -found.value
        assert mirrored.standard_error == found.standard_error
    same = difference(base["recall"], base["recall"])
    assert (same.value, same.standard_error) == (0, 0)


def test_differences_have_the_error_of_what_is_not_shared() -> None:
    real = Neighbourhood(sample(500, seed=1))
    common = sample(500, seed=2)
    ours = neighbour_metric("density", common + 0.02, real)
    base = neighbour_metric("density", common, real)
    expected = (ours.parts - base.parts).std(ddof=1) / np.sqrt(500)
    found = difference(ours, base)
    assert found.standard_error == pytest.approx(expected, rel=1e-12)
    assert found.standard_error < base.estimate().standard_error / 2


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_known_better_than_one_image(name: str) -> None:
    # All images far away, so that all parts are 0.
    real = Neighbourhood(sample(300, seed=1))
    found = neighbour_metric(name, sample(200, shift=1000), real, blocks=4)
    assert not found.parts.any()
    least = 1 / 300 if name in ("recall", "coverage") else 1 / 200
    assert found.estimate().standard_error == least
    other = Measured(name, 0.001, 200, found.parts, 300)
    assert difference(other, found).standard_error == pytest.approx(2**0.5 * least)
    assert difference(found, found).standard_error == 0
    if name in ("recall", "coverage"):
        # 9 real images more are reached.
        other = Measured(name, 9 / 300, 200, found.parts, 300)
        assert difference(other, found).standard_error == pytest.approx(3 / 300)


@pytest.mark.parametrize(
    ("images", "blocks"),
    [(1000, 4), (1249, 4), (1250, 5), (2000, 8), (5000, 20), (50_000, 20)],
)
def test_blocks_are_of_one_chunk_at_least(images: int, blocks: int) -> None:
    assert seed_blocks(images) == blocks


def test_what_rests_on_the_real_images_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Neighbourhood(sample(1024, seed=1))
    neighbour_metrics(sample(1024), real, blocks=4)
    kept = real._nearest
    parts = real.dealt(4)
    neighbour_metrics(sample(1024, seed=3), real, blocks=4)
    assert real._nearest is kept
    assert real.dealt(4) is parts
    assert (
        neighbour_metrics(sample(1024), real, blocks=4)["recall"].value
        == values(sample(1024), real.rows)["recall"]
    )


def test_recall_alone_needs_no_distances_among_real_images() -> None:
    real = Neighbourhood(sample(50, seed=1))
    neighbour_metric("recall", sample(50), real, blocks=4)
    assert "_nearest" not in vars(real)


def test_given_arrays_stay_as_they_are() -> None:
    ours, real = sample(50), sample(50, seed=1)
    before = ours.copy(), real.copy()
    neighbour_metrics(ours, real, blocks=4)
    np.testing.assert_array_equal(ours, before[0])
    np.testing.assert_array_equal(real, before[1])


@pytest.mark.parametrize("name", ["recall", "coverage"])
def test_too_few_images_for_error_bars_are_refused(name: str) -> None:
    with pytest.raises(ObjectiveError, match=r"at least 1000 images.*found 999 images"):
        neighbour_metric(name, sample(999), sample(1500, seed=1))
    with pytest.raises(ObjectiveError, match="blocks: expected at least 4"):
        neighbour_metric(name, sample(999), sample(1500, seed=1), blocks=3)
    measured = neighbour_metric(name, sample(99), sample(150, seed=1), blocks=0)
    assert 0 < measured.value <= 1
    with pytest.raises(ObjectiveError, match="error bars"):
        measured.estimate()
    with pytest.raises(ObjectiveError, match="error bars"):
        difference(measured, measured)


@pytest.mark.parametrize(
    ("name", "images", "real_images", "message"),
    [
        ("recall", 3, 20, "^features: expected at least 4 images for recall"),
        ("precision", 20, 3, "^real features: expected at least 4 images for precision"),
        ("density", 20, 5, "^real features: expected at least 6 images for density"),
        ("coverage", 20, 5, "^real features: expected at least 6 images for coverage"),
        ("density", 1, 20, "^features: .*N >= 2"),
    ],
)
def test_fewer_images_than_neighbours_are_refused(
    name: str, images: int, real_images: int, message: str
) -> None:
    with pytest.raises(ObjectiveError, match=message):
        neighbour_metric(name, sample(images), sample(real_images, seed=1), blocks=0)


def test_fewer_images_than_neighbours_in_a_block_are_refused() -> None:
    with pytest.raises(
        ObjectiveError, match=r"real features: expected at least 24 .* in 4 blocks"
    ):
        neighbour_metric("coverage", sample(1000), sample(23, seed=1))
    with pytest.raises(ObjectiveError, match=r"^features: expected at least 40 .* in 10 blocks"):
        neighbour_metric("recall", sample(39), sample(40, seed=1), blocks=10)


@pytest.mark.parametrize("names", [["precison"], ["recall", "fid"], []])
def test_unknown_names_are_refused(names: list[str]) -> None:
    with pytest.raises(ObjectiveError, match="expected one of precision, recall, density"):
        neighbour_metrics(sample(20), sample(20, seed=1), names)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    rows = sample(100)
    rows[7, 1] = bad
    with pytest.raises(ObjectiveError, match=r"^features: .*1 of 100 rows"):
        values(rows, sample(50))
    with pytest.raises(ObjectiveError, match=r"^real features: .*1 of 100 rows"):
        values(sample(50), rows)


def test_unequal_dimensions_are_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"\[N, 5\], found float64 \[20, 4\]"):
        values(sample(20, 4), sample(20, 5))


def test_differences_of_unlike_measurements_are_refused() -> None:
    real = sample(40, seed=1)
    base = neighbour_metric("precision", sample(40), real)
    for other in (
        neighbour_metric("density", sample(40), real),
        neighbour_metric("precision", sample(39), real),
        neighbour_metric("precision", sample(40), real[:30]),
    ):
        with pytest.raises(ObjectiveError, match="paired metrics"):
            difference(other, base)
    parts = np.zeros(4)
    with pytest.raises(ObjectiveError, match="in 5 parts"):
        difference(
            Measured("recall", 0.5, 40, np.zeros(5), 40), Measured("recall", 0.5, 40, parts, 40)
        )
