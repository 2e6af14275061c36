"""Errors of slopes: between blocks, and where prompts are the unit, of prompts."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from skiptune.objectives.cotangents import (
    frechet_cotangents,
    kid_cotangents,
    teacher_cotangents,
)
from skiptune.objectives.kid import KernelReference
from skiptune.objectives.reference import reference_of
from skiptune.objectives.units import Units, design_effect
from skiptune.search.sensitivities import from_slopes
from skiptune.search.slope_map import Slopes

CHUNKS, EACH, LEVELS = 8, 50, (9.0, 3.0, 1.0)


def chunks(rows: np.ndarray[Any, Any], labels: np.ndarray[Any, Any] | None) -> list[Any]:
    """Rows [J, skips, levels] as they are stored."""
    made = []
    for place, part in enumerate(np.split(rows, CHUNKS)):
        arrays = {"slopes": part.reshape(len(part), -1).astype(np.float32)}
        arrays["levels"] = np.array([LEVELS], dtype=np.float32)
        if labels is not None:
            arrays["label"] = np.split(labels, CHUNKS)[place].astype(np.float32)
        made.append(arrays)
    return made


def drawn(rng: np.random.Generator, prompts: int, common: float) -> Any:
    """Slopes of 2 skips whose images of one prompt share a part, and their prompts."""
    labels = rng.integers(prompts, size=CHUNKS * EACH)
    shared = common * rng.standard_normal((prompts, 2, len(LEVELS)))
    own = rng.standard_normal((len(labels), 2, len(LEVELS)))
    return shared[labels] + own, labels


def test_the_design_effect_is_the_ratio_of_both_formulas() -> None:
    rng = np.random.default_rng(0)
    rows, labels = drawn(rng, 30, 1.0)
    units = Units.of_labels(labels)
    found = design_effect(rows, units)
    assert found.shape == (2, 3)
    column = rows[:, 1, 2] - rows[:, 1, 2].mean()
    sums = [float(column[labels == one].sum()) for one in set(labels.tolist())]
    clustered = math.sqrt(len(sums) / (len(sums) - 1) * sum(one**2 for one in sums))
    plain = math.sqrt(len(column) / (len(column) - 1) * float(column @ column))
    assert found[1, 2] == pytest.approx(clustered / plain, rel=1e-9) and clustered > 2 * plain
    # An image of its own for each unit changes nothing, nor do images that repel each other.
    alone = design_effect(rows, Units.of_labels(np.arange(len(rows))))
    assert alone == pytest.approx(1.0)
    pairs = np.repeat(rng.standard_normal(50), 2) * np.tile([1.0, -1.0], 50)
    assert design_effect(pairs, Units.of_labels(np.arange(100) // 2)) == 1.0
    assert design_effect(np.zeros((4, 1)), Units.of_labels([0, 0, 1, 1])) == 1.0


@pytest.mark.parametrize(("prompts", "common"), [(20, 1.0), (60, 1.0), (200, 1.0), (40, 0.0)])
def test_errors_are_the_spread_over_fresh_prompts(prompts: int, common: float) -> None:
    rng = np.random.default_rng(1)
    means, counted, blocks = [], [], []
    for _ in range(150):
        rows, labels = drawn(rng, prompts, common)
        own = Slopes.of_chunks(chunks(rows, labels), together=1, nfe=0.0)
        plain = Slopes.of_chunks(chunks(rows, None), together=1, nfe=0.0)
        assert np.array_equal(own.skips[0], plain.skips[0])
        means.append(own.skips[0])
        counted.append(own.skips[1])
        blocks.append(plain.skips[1])
    spread = np.std(means, axis=0).mean()
    seen, unseen = (float(np.sqrt(np.square(found).mean())) for found in (counted, blocks))
    assert seen / spread == pytest.approx(1.0, abs=0.15)
    if common and prompts < 200:
        assert unseen / spread < 0.75  # what errors of images made of it


def test_errors_hold_for_a_metric_that_is_differentiated() -> None:
    """The teacher's loss of features that prompts shift, moved along what prompts decide too."""
    rng = np.random.default_rng(2)
    dim, prompts = 4, 30
    means, errors = [], []
    for _ in range(150):
        labels = rng.integers(prompts, size=CHUNKS * EACH)
        shift, moved = (rng.standard_normal((prompts, dim))[labels] for _ in range(2))
        features = shift + rng.standard_normal((len(labels), dim))
        cotangents = teacher_cotangents(features, np.zeros_like(features))
        tangents = 0.3 + moved + rng.standard_normal((len(labels), dim))
        rows = (cotangents * tangents).sum(axis=1)[:, None, None] * np.ones((1, 2, len(LEVELS)))
        found = Slopes.of_chunks(chunks(rows, labels), together=1, nfe=0.0)
        means.append(found.skips[0][0])
        errors.append(found.skips[1][0])
    assert np.sqrt(np.square(errors).mean()) / np.std(means) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("prompts", [20, 60])
@pytest.mark.parametrize("key", ["fd", "kid"])
def test_errors_hold_where_cotangents_are_moments_of_all_images(key: str, prompts: int) -> None:
    """Features of Gaussian prompts and images; what single images add is a part of it alone."""
    dim, each, repeats = 8, 64, 60
    rng = np.random.default_rng(0)
    turned = 0.5 * np.random.default_rng(5).standard_normal((dim, dim)) / math.sqrt(dim)
    real = 0.5 + math.sqrt(2.4) * np.random.default_rng(9).standard_normal((800, dim))
    extractor: Any = SimpleNamespace(name="x", dim=dim, sha256="0" * 64, preprocess="p")
    reference, kernel = reference_of(real, extractor=extractor, name="r"), KernelReference(real)
    means, counted, blocks = [], [], []
    for _ in range(repeats):
        labels = rng.integers(prompts, size=CHUNKS * each)
        shift, moved = (rng.standard_normal((prompts, dim))[labels] for _ in range(2))
        features = shift + rng.standard_normal((len(labels), dim))
        tangents = features @ turned.T + 0.3 * moved
        tangents += 0.5 * rng.standard_normal(features.shape)
        rows = []
        for block in np.split(np.arange(len(labels)), CHUNKS):
            some = features[block]
            cotangents = (
                frechet_cotangents(some, reference)
                if key == "fd"
                else kid_cotangents(some, kernel)
            )
            rows.append((cotangents * tangents[block]).sum(axis=1))
        values = np.concatenate(rows)[:, None, None] * np.ones((1, 1, len(LEVELS)))
        own = Slopes.of_chunks(chunks(values, labels), together=1, nfe=0.0)
        plain = Slopes.of_chunks(chunks(values, None), together=1, nfe=0.0)
        means.append(own.skips[0][0])
        counted.append(own.skips[1][0])
        blocks.append(plain.skips[1][0])
    seen, unseen = (math.sqrt(np.square(found).mean()) for found in (counted, blocks))
    assert 0.7 < seen / np.std(means) < 1.4
    assert unseen / np.std(means) < 0.75


def test_every_view_of_the_slopes_counts_prompts() -> None:
    rows, labels = drawn(np.random.default_rng(3), 25, 2.0)
    own = Slopes.of_chunks(chunks(rows, labels), together=2, nfe=0.0)
    plain = Slopes.of_chunks(chunks(rows, None), together=2, nfe=0.0)
    assert own.blocks.shape == (4, 2, 3) and own.units is not None and plain.units is None
    bounds = [(2.0, math.inf), (0.0, 2.0)]
    for found, other in ((own.map, plain.map), (own.within(bounds), plain.within(bounds))):
        assert np.array_equal(found[0], other[0])
        assert float((found[1] / other[1]).min()) > 1.5
    units = own.units
    within = np.stack([rows[:, :, :2].sum(axis=2), rows[:, :, 2]], axis=2).astype(np.float32)
    effect = design_effect(within.astype(np.float64), units)
    ratio = own.within(bounds)[1] / plain.within(bounds)[1]
    assert ratio == pytest.approx(effect, rel=1e-4)
    told = from_slopes(own, ["a", "b"], baseline=1.0, of="baseline").of
    assert told == f"slopes of baseline, 4 blocks of seeds, errors of {units.count} prompts"
    assert "prompts" not in from_slopes(plain, ["a", "b"], baseline=1.0, of="baseline").of
