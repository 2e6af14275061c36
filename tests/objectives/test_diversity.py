"""Distances between images of one label, held to sums over pairs and to repeated draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.diversity import diversity
from skiptune.objectives.metrics import Sample, Standard, difference, measure

Rows = NDArray[np.floating[Any]]


def in_blocks(rows: Rows, size: int = 7) -> Callable[[], Iterator[NDArray[np.float32]]]:
    single = rows.astype(np.float32)
    return lambda: (single[first : first + size] for first in range(0, len(rows), size))


def by_pairs(rows: Rows, labels: NDArray[np.int64]) -> float:
    """Mean over pairs by label, labels weighed by images less one."""
    total, weight = 0.0, 0
    for label in np.unique(labels):
        mine = rows[labels == label].astype(np.float64)
        each = [float(np.square(a - b).sum()) for a, b in combinations(mine, 2)]
        if each:
            total += (len(mine) - 1) * float(np.mean(each))
            weight += len(mine) - 1
    return total / weight


def test_it_is_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 5)).astype(np.float32)
    labels = rng.integers(0, 20, 60)
    labels[0] = 99  # alone
    value, influence = diversity(in_blocks(rows), labels)
    assert value == pytest.approx(by_pairs(rows, labels), rel=1e-6)
    assert influence.shape == (60,)
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    value, _ = diversity(in_blocks(rows))
    assert value == pytest.approx(by_pairs(rows, np.zeros(60, np.int64)), rel=1e-6)


def test_its_error_is_that_of_repeated_draws() -> None:
    """Of one label by images, of many labels by labels: within a tenth of the spread seen."""
    rng = np.random.default_rng(1)
    found = [diversity(in_blocks(rng.standard_normal((200, 4)), 200)) for _ in range(800)]
    spread = np.std([value for value, _ in found])
    error = np.mean([parts.std(ddof=1) / np.sqrt(200) for _, parts in found])
    assert error == pytest.approx(spread, rel=0.1)
    # The expected value is twice the trace of the covariance, whatever the count.
    assert np.mean([value for value, _ in found]) == pytest.approx(8, rel=0.01)

    labels = np.repeat(np.arange(60), 3)
    values, errors = [], []
    for _ in range(800):
        scales = np.exp(rng.standard_normal(60))[labels, None]
        value, parts = diversity(in_blocks(scales * rng.standard_normal((180, 4)), 180), labels)
        sums = np.bincount(labels, parts)
        values.append(value)
        errors.append(np.sqrt(np.sum(sums**2)) / 180)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.15)


def test_the_metric_reads_labels_and_more_is_better() -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((40, 3)).astype(np.float32)
    labels = rng.integers(0, 6, 40)
    base = measure(
        ["diversity"], Sample.of(features=rows, label=labels.astype(np.float32)), Standard()
    )["diversity"]
    assert base.value.value == pytest.approx(by_pairs(rows, labels), rel=1e-6)
    half = Sample.of(features=(rows / 2).astype(np.float32), label=labels.astype(np.float32))
    tighter = measure(["diversity"], half, Standard())["diversity"]
    assert difference(tighter, base).value == pytest.approx(0.75 * base.value.value)
    # Without labels all are of one kind.
    alone = measure(["diversity"], Sample.of(features=rows), Standard())["diversity"]
    assert alone.value.value == pytest.approx(by_pairs(rows, np.zeros(40, np.int64)), rel=1e-6)


def test_images_of_which_no_two_are_alike_say_nothing() -> None:
    with pytest.raises(ObjectiveError, match="3 images of 3"):
        diversity(in_blocks(np.eye(3, dtype=np.float32)), [1, 2, 3])
