from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives.cotangents import (
    block_images,
    cotangents,
    frechet_cotangents,
    kid_cotangents,
    loss_cotangents,
    over_blocks,
    teacher_cotangents,
)
from skiptune.objectives.extrapolation import HALVES, PLAIN, QUARTERS, Correction
from skiptune.objectives.kid import kid
from skiptune.objectives.metrics import Real, Sample, Standard, measure
from skiptune.objectives.paired import corrected, raw
from skiptune.objectives.reference import Reference

from .conftest import MakeReference

Array = NDArray[np.float64]
DIM = 5
MIXING = np.random.default_rng(5).standard_normal((DIM, DIM)) / 3 + np.eye(DIM)


def sample(count: int, *, seed: int = 0, shift: float = 0.0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, DIM)) @ MIXING + shift


def fitted(make_reference: MakeReference, rows: Array) -> Reference:
    return make_reference(rows.mean(axis=0), np.cov(rows, rowvar=False))


def by_differences(value: Callable[[Array], float], rows: Array, at: list[int]) -> Array:
    """N times the central difference in every feature of some rows."""
    step = 1e-5
    found = np.zeros((len(at), DIM))
    for line, row in enumerate(at):
        for column in range(DIM):
            ends = []
            for sign in (1, -1):
                moved = rows.copy()
                moved[row, column] += sign * step
                ends.append(value(moved))
            found[line, column] = len(rows) * (ends[0] - ends[1]) / (2 * step)
    return found


@pytest.mark.parametrize("correction", [PLAIN, HALVES, QUARTERS])
def test_frechet_is_the_derivative_of_the_reported_number(
    correction: Correction, make_reference: MakeReference
) -> None:
    reference = fitted(make_reference, sample(500, seed=1))
    rows = sample(43, shift=0.3)

    def value(moved: Array) -> float:
        if correction == PLAIN:
            return raw(moved, reference).value
        return corrected(moved, reference, correction=correction).value

    found = frechet_cotangents(rows, reference, correction=correction)
    assert found[[0, 1, 2, 3, 42]] == pytest.approx(
        by_differences(value, rows, [0, 1, 2, 3, 42]), rel=2e-5, abs=2e-6
    )


def test_kid_is_the_derivative_of_the_reported_number() -> None:
    rows, real = sample(23, shift=0.3), sample(31, seed=1)
    found = kid_cotangents(rows, real)
    expected = by_differences(lambda moved: kid(moved, real).value, rows, [0, 11, 22])
    assert found[[0, 11, 22]] == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_kid_goes_through_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, real = sample(23, shift=0.3), sample(31, seed=1)
    whole = kid_cotangents(rows, real)
    monkeypatch.setattr("skiptune.objectives.kid.BLOCK", 7)
    assert kid_cotangents(rows, real) == pytest.approx(whole, rel=1e-12)


def test_teacher_loss_is_the_derivative_of_the_mean() -> None:
    rows, teacher = sample(9), sample(9, seed=1)
    found = teacher_cotangents(rows, teacher)

    def value(moved: Array) -> float:
        summary = measure(
            ["teacher_loss"],
            Sample.of(features=moved.astype(np.float64)),
            Standard(teacher=Sample.of(features=teacher)),  # type: ignore[arg-type]
        )
        return summary["teacher_loss"].value.value

    assert found[[0, 8]] == pytest.approx(by_differences(value, rows, [0, 8]), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("key", ["feature_loss", "pixel_loss"])
def test_a_denoising_loss_moves_alike_with_all_pairs(key: str) -> None:
    rng = np.random.default_rng(3)
    losses, baseline = rng.gamma(2.0, size=(9, DIM)), rng.gamma(2.0, size=(9, DIM))

    def value(moved: Array) -> float:
        standard = Standard(baseline=Sample.of(**{key: baseline}))  # type: ignore[arg-type]
        found = measure([key], Sample.of(**{key: moved}), standard)  # type: ignore[arg-type]
        return found[key].value.value

    found = loss_cotangents(baseline)
    assert found.shape == (DIM,)
    expected = by_differences(value, losses, [0, 4, 8])
    assert np.broadcast_to(found, (3, DIM)) == pytest.approx(expected, rel=1e-6)


def test_losses_that_cannot_be_divided_by_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="0 at level 1"):
        loss_cotangents([[1.0, 0.0], [2.0, 0.0]])


def test_by_name_they_are_those_of_the_study_s_metric(make_reference: MakeReference) -> None:
    reference = fitted(make_reference, sample(500, seed=1))
    rows = sample(40, shift=0.3).astype(np.float32)
    standard = Standard(real=Real(reference))
    found = cotangents("fd", Sample.of(features=rows), standard)
    assert found.dtype == np.float32
    assert found == pytest.approx(frechet_cotangents(rows, reference), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("key", ["recall", "feature_loss", "teacher_loss"])
def test_a_metric_without_slopes_is_refused(key: str, make_reference: MakeReference) -> None:
    standard = Standard(real=Real(fitted(make_reference, sample(500, seed=1))))
    with pytest.raises(ObjectiveError, match="one of fd, kid, teacher_loss"):
        cotangents(key, Sample.of(features=sample(40).astype(np.float32)), standard)


def test_too_few_images_for_the_correction_are_refused(make_reference: MakeReference) -> None:
    with pytest.raises(ObjectiveError, match="N >= 20"):
        frechet_cotangents(sample(19), fitted(make_reference, sample(500, seed=1)))


def test_blocks_give_the_slope_with_an_honest_error(make_reference: MakeReference) -> None:
    """Features x + t (x a + b) of Gaussian images: the slope at t = 0 is known as N -> oo."""
    reference = fitted(make_reference, sample(4000, seed=1))
    stretch = np.array([0.5, -0.3, 0.2, 0.0, 0.1])
    push = np.array([0.1, 0.2, 0.0, -0.3, 0.1])
    blocks, size = 8, 50

    def slope(rows: Array) -> float:
        moved = rows * stretch + push
        return float((frechet_cotangents(rows, reference) * moved).sum(axis=1).mean())

    truth = slope(sample(200_000, seed=2, shift=0.1) * 1.1)
    scores = []
    for seed in range(100, 200):
        rows = sample(blocks * size, seed=seed, shift=0.1) * 1.1
        mean, error = over_blocks([slope(part) for part in rows.reshape(blocks, size, DIM)])
        scores.append((mean - truth) / error)
    # Student's t with 7 degrees of freedom has variance 7/5; the mean of 100 errs by 0.12.
    assert abs(np.mean(scores)) < 0.35
    assert 0.8 < np.var(scores) < 2.2
    # Five in a hundred outside of the 95 % interval, 2.36 errors wide.
    assert np.mean(np.abs(scores) > 2.36) < 0.13


def test_a_block_holds_whole_chunks_that_a_distance_can_be_taken_of() -> None:
    assert block_images("fd", 64, 250) == 250
    assert block_images("fd", 65, 250) == 500
    assert block_images("fd", 2048, 250) == 8000
    assert block_images("kid", 2048, 250) == 250


def test_one_block_has_no_error() -> None:
    with pytest.raises(ObjectiveError, match="at least 2 blocks"):
        over_blocks([[1.0, 2.0]])
